// Package simprovider is a payment provider that only pretends to move money: with latency,
// declines, answers that never come, and charges whose answer is lost. What it has "charged" is
// kept in a store, so that its statement survives a crash and is the same for all instances.
package simprovider

import (
	"context"
	"encoding/binary"
	"errors"
	"flashsale/id"
	"flashsale/money"
	"flashsale/payment"
	"fmt"
	"time"
)

// Store keeps the provider's charges.
type Store interface {
	// PutCharge writes a charge unless its key has one, and returns the one that is there.
	PutCharge(ctx context.Context, c payment.Charge) (payment.Charge, error)
	// Charge returns the charge of a key, or payment.ErrNoCharge.
	Charge(ctx context.Context, key id.ID) (payment.Charge, error)
	// RefundCharge marks a captured charge as refunded.
	RefundCharge(ctx context.Context, key id.ID) error
	// Charges calls charge for every charge until it returns an error.
	Charges(ctx context.Context, charge func(payment.Charge) error) error
}

// Faults say how the provider misbehaves. The rates are shares of the keys, and add up to at most 1.
type Faults struct {
	MinLatency, MaxLatency time.Duration
	Decline                float64
	Timeout                float64 // never answers, nothing charged
	LostReply              float64 // charged, never answers
	Seed                   uint64
}

// ErrFaults is returned by New for rates that are no shares.
var ErrFaults = errors.New("simprovider: rates are from 0 to 1 and add up to at most 1, latencies are not negative")

// The methods that decide the outcome whatever the rates say, for tests and demonstrations.
const (
	MethodOK        = "tok_ok"
	MethodDecline   = "tok_decline"
	MethodTimeout   = "tok_timeout"
	MethodLostReply = "tok_charge_then_timeout"
)

// Provider implements payment.Provider.
type Provider struct {
	store  Store
	faults Faults
	wait   func(ctx context.Context, d time.Duration) error
}

// New returns a provider. wait sleeps, or returns the context's error; it is passed in so that a
// simulation can keep its own time.
func New(store Store, faults Faults, wait func(ctx context.Context, d time.Duration) error) (*Provider, error) {
	for _, rate := range []float64{faults.Decline, faults.Timeout, faults.LostReply} {
		if !(rate >= 0 && rate <= 1) {
			return nil, ErrFaults
		}
	}
	if faults.Decline+faults.Timeout+faults.LostReply > 1+1e-9 || faults.MinLatency < 0 || faults.MaxLatency < 0 {
		return nil, ErrFaults
	}
	return &Provider{store: store, faults: faults, wait: wait}, nil
}

// fate is a number from 0 to 1 that depends on seed and key only: repeating a charge repeats it.
func (p *Provider) fate(key id.ID, what string) float64 {
	h := id.Derive("simprovider", what, fmt.Sprint(p.faults.Seed), key.String())
	return float64(binary.BigEndian.Uint32(h[:])) / (1 << 32)
}

func (p *Provider) latency(ctx context.Context, key id.ID) error {
	d := p.faults.MinLatency
	if span := p.faults.MaxLatency - p.faults.MinLatency; span > 0 {
		d += time.Duration(p.fate(key, "latency") * float64(span))
	}
	if p.wait(ctx, d) != nil {
		return payment.ErrUnknown
	}
	return nil
}

func (p *Provider) outcome(key id.ID, method string) string {
	switch method {
	case MethodOK, MethodDecline, MethodTimeout, MethodLostReply:
		return method
	}
	switch f := p.fate(key, "outcome"); {
	case f < p.faults.Decline:
		return MethodDecline
	case f < p.faults.Decline+p.faults.Timeout:
		return MethodTimeout
	case f < p.faults.Decline+p.faults.Timeout+p.faults.LostReply:
		return MethodLostReply
	}
	return MethodOK
}

// Charge implements payment.Provider.
func (p *Provider) Charge(ctx context.Context, key id.ID, amount money.Money, method string) (payment.Charge, error) {
	if err := p.latency(ctx, key); err != nil {
		return payment.Charge{}, err
	}
	c := payment.Charge{Key: key, Ref: "sim_" + key.String(), Amount: amount}
	out := p.outcome(key, method)
	if out == MethodTimeout || out == MethodLostReply { // a repetition is answered as what it repeats
		known, err := p.store.Charge(ctx, key)
		if err == nil {
			return answer(known)
		}
		if !errors.Is(err, payment.ErrNoCharge) {
			return payment.Charge{}, payment.ErrUnknown
		}
	}
	switch out {
	case MethodTimeout:
		return payment.Charge{}, payment.ErrUnknown
	case MethodDecline:
		c.Reason = "card_declined"
	default:
		c.Captured = true
	}
	c, err := p.store.PutCharge(ctx, c)
	if err != nil || out == MethodLostReply {
		return payment.Charge{}, payment.ErrUnknown
	}
	return answer(c)
}

func answer(c payment.Charge) (payment.Charge, error) {
	if !c.Captured {
		return c, payment.ErrDeclined
	}
	return c, nil
}

// Lookup implements payment.Provider.
func (p *Provider) Lookup(ctx context.Context, key id.ID) (payment.Charge, error) {
	c, err := p.store.Charge(ctx, key)
	if err != nil && !errors.Is(err, payment.ErrNoCharge) {
		return c, fmt.Errorf("%w: %w", payment.ErrUnknown, err)
	}
	return c, err
}

// Void implements payment.Provider: the tombstone makes every later charge of the key a decline.
func (p *Provider) Void(ctx context.Context, key id.ID) (payment.Charge, error) {
	c, err := p.store.PutCharge(ctx, payment.Charge{Key: key, Ref: "sim_" + key.String(), Reason: "voided"})
	switch {
	case err != nil:
		return c, fmt.Errorf("%w: %w", payment.ErrUnknown, err)
	case c.Captured:
		return c, payment.ErrCaptured
	}
	return c, nil
}

// Refund implements payment.Provider.
func (p *Provider) Refund(ctx context.Context, key id.ID) (payment.Charge, error) {
	c, err := p.Lookup(ctx, key)
	switch {
	case err != nil:
		return c, err
	case !c.Captured:
		return c, payment.ErrNoCharge
	case c.Refunded:
		return c, nil
	}
	if err := p.store.RefundCharge(ctx, key); err != nil {
		return c, fmt.Errorf("%w: %w", payment.ErrUnknown, err)
	}
	c.Refunded = true
	return c, nil
}

// Statement implements payment.Provider.
func (p *Provider) Statement(ctx context.Context, charge func(payment.Charge) error) error {
	return p.store.Charges(ctx, charge)
}
