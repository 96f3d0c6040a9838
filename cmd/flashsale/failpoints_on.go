//go:build failpoints

// This file is in test builds only (go build -tags failpoints): a process that fails between two steps when it is told to.
//
//	FLASHSALE_FAILPOINTS=gate.take:after:3                 it kills itself right after its third take at the gate
//	FLASHSALE_FAILPOINTS=ledger.commit:before:1:stop       it stops itself (SIGSTOP) before its first commit
//
// Several, with commas, each do what they say. A call counts before it is made, and after it when it has succeeded; calls
// that do nothing (no takes to settle, say) do not count. What is done is said on stderr first.
//
//	FLASHSALE_CLOCK=/path/of/a/file
//
// names a file with a duration of whole seconds, such as -5m: the process's wall clock is set by so much, whenever the
// file is written. Its monotonic clock goes on, as it does when the clock of a machine is set.
package main

import (
	"context"
	"errors"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// sabotage is what a process is told to do to itself.
type sabotage struct {
	points map[string][]*failpoint // by point and side, such as "gate.take:after"
	step   *steppedClock           // nil: the machine's clock
}

// failpoint acts at its n-th call.
type failpoint struct {
	spec  string
	n     int64
	calls atomic.Int64
	act   func()
}

// pointNames are the calls of the engine's ports that can be failed at.
func pointNames() []string {
	return []string{
		"gate.take", "gate.transfer", "gate.settle", "gate.abort", "gate.withdraw", "gate.install", "gate.credit", // take is a shopper's, transfer the keeper's
		"ledger.commit", "ledger.move", "ledger.expire", "ledger.refuse", "ledger.transfer", "ledger.reopen", "ledger.tombstone",
		"orders.apply", "payments.begin", "payments.advance", "provider.charge", "provider.refund", "events.send", "events.handle",
	}
}

func openSabotage() (sabotage, error) {
	s := sabotage{points: map[string][]*failpoint{}}
	for spec := range strings.SplitSeq(os.Getenv("FLASHSALE_FAILPOINTS"), ",") {
		if spec == "" {
			continue
		}
		p, at, err := parseFailpoint(spec)
		if err != nil {
			return s, err
		}
		s.points[at] = append(s.points[at], p)
	}
	if path := os.Getenv("FLASHSALE_CLOCK"); path != "" {
		now := time.Now()
		if then := stepped(now, -time.Hour); then.Sub(now) != 0 || then.Round(0).Sub(now.Round(0)) != -time.Hour {
			return s, errors.New("this Go lays out a time in another way; see stepped")
		}
		s.step = &steppedClock{path: path}
	}
	return s, nil
}

func parseFailpoint(spec string) (p *failpoint, at string, _ error) {
	parts := strings.Split(spec, ":")
	if len(parts) == 3 {
		parts = append(parts, "kill")
	}
	if len(parts) != 4 || !slices.Contains(pointNames(), parts[0]) || parts[1] != "before" && parts[1] != "after" {
		return nil, "", fmt.Errorf("FLASHSALE_FAILPOINTS: %q is not point:before|after:n[:kill|stop] with one of the points %s", spec, strings.Join(pointNames(), ", "))
	}
	n, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || n < 1 {
		return nil, "", fmt.Errorf("FLASHSALE_FAILPOINTS: %q: the third part is the number of the call, from 1", spec)
	}
	p = &failpoint{spec: spec, n: n}
	switch parts[3] {
	case "stop":
		p.act = func() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }
	case "kill":
		p.act = func() {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // not one step further
		}
	default:
		return nil, "", fmt.Errorf("FLASHSALE_FAILPOINTS: %q: a process can kill or stop", spec)
	}
	return p, parts[0] + ":" + parts[1], nil
}

func (s sabotage) hit(at string) {
	for _, p := range s.points[at] {
		if p.calls.Add(1) == p.n {
			_, _ = fmt.Fprintf(os.Stderr, "failpoint %s\n", p.spec)
			p.act()
		}
	}
}

// around makes a call between its two sides.
func around[A any](s sabotage, point string, call func() (A, error)) (A, error) {
	s.hit(point + ":before")
	a, err := call()
	if err == nil {
		s.hit(point + ":after")
	}
	return a, err
}

// done is around for a call that returns nothing but its error.
func (s sabotage) done(point string, call func() error) error {
	_, err := around(s, point, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func (s sabotage) gate(next engine.GateKeeper) engine.GateKeeper { return failingGate{next, s} }

type failingGate struct {
	engine.GateKeeper
	s sabotage
}

// Take implements inventory.Gate.
func (g failingGate) Take(ctx context.Context, t inventory.Take) (inventory.Taken, error) {
	point := "gate.take"
	if t.User.IsZero() {
		point = "gate.transfer"
	}
	return around(g.s, point, func() (inventory.Taken, error) { return g.GateKeeper.Take(ctx, t) })
}

// Settle implements inventory.Gate.
func (g failingGate) Settle(ctx context.Context, takes []inventory.TakeRef) error {
	if len(takes) == 0 {
		return nil
	}
	return g.s.done("gate.settle", func() error { return g.GateKeeper.Settle(ctx, takes) })
}

// Abort implements inventory.Gate.
func (g failingGate) Abort(ctx context.Context, takes []inventory.TakeRef) error {
	if len(takes) == 0 {
		return nil
	}
	return g.s.done("gate.abort", func() error { return g.GateKeeper.Abort(ctx, takes) })
}

// Withdraw implements inventory.Gate.
func (g failingGate) Withdraw(ctx context.Context, takes []inventory.TakeRef) (bool, error) {
	return around(g.s, "gate.withdraw", func() (bool, error) { return g.GateKeeper.Withdraw(ctx, takes) })
}

// Install implements inventory.Keeper.
func (g failingGate) Install(ctx context.Context, b inventory.BucketID, l inventory.Level, users map[id.ID]int) error {
	return g.s.done("gate.install", func() error { return g.GateKeeper.Install(ctx, b, l, users) })
}

// Credit implements inventory.Keeper.
func (g failingGate) Credit(ctx context.Context, b inventory.BucketID, epoch int64, credits []inventory.Credit) (int64, error) {
	return around(g.s, "gate.credit", func() (int64, error) { return g.GateKeeper.Credit(ctx, b, epoch, credits) })
}

func (s sabotage) stores(all *stores) {
	if all.ledger != nil {
		all.ledger = failingLedger{all.ledger, s}
	}
	if all.orders != nil {
		all.orders = failingOrders{all.orders, s}
	}
	if all.payments != nil {
		all.payments = failingPayments{all.payments, s}
	}
}

type failingLedger struct {
	ledgerStore
	s sabotage
}

// Commit implements inventory.Ledger.
func (l failingLedger) Commit(ctx context.Context, claims []inventory.Claim) ([]inventory.Decision, error) {
	return around(l.s, "ledger.commit", func() ([]inventory.Decision, error) { return l.ledgerStore.Commit(ctx, claims) })
}

// Move implements inventory.Ledger.
func (l failingLedger) Move(ctx context.Context, moves []inventory.Move) ([]inventory.Moved, error) {
	point := "ledger.move"
	if slices.ContainsFunc(moves, func(m inventory.Move) bool { return m.Kind == reservation.MoveExpire }) {
		point = "ledger.expire"
	}
	return around(l.s, point, func() ([]inventory.Moved, error) { return l.ledgerStore.Move(ctx, moves) })
}

// Refuse implements inventory.Ledger.
func (l failingLedger) Refuse(ctx context.Context, refusals []inventory.Refusal) ([]reservation.Reservation, error) {
	return around(l.s, "ledger.refuse", func() ([]reservation.Reservation, error) { return l.ledgerStore.Refuse(ctx, refusals) })
}

// Transfer implements inventory.Balance.
func (l failingLedger) Transfer(ctx context.Context, t inventory.Transfer) (inventory.LegOutcome, error) {
	return around(l.s, "ledger.transfer", func() (inventory.LegOutcome, error) { return l.ledgerStore.Transfer(ctx, t) })
}

// Reopen implements inventory.Books.
func (l failingLedger) Reopen(ctx context.Context, b inventory.BucketID, from int64) (row inventory.Bucket, users map[id.ID]int, err error) {
	err = l.s.done("ledger.reopen", func() error {
		row, users, err = l.ledgerStore.Reopen(ctx, b, from)
		return err
	})
	return row, users, err
}

// Tombstone implements inventory.Books.
func (l failingLedger) Tombstone(ctx context.Context, takes []inventory.Pending) ([]inventory.LegOutcome, error) {
	return around(l.s, "ledger.tombstone", func() ([]inventory.LegOutcome, error) { return l.ledgerStore.Tombstone(ctx, takes) })
}

type failingOrders struct {
	orderStore
	s sabotage
}

// Apply implements order.Store.
func (o failingOrders) Apply(ctx context.Context, changes []order.Change) ([]order.Changed, error) {
	return around(o.s, "orders.apply", func() ([]order.Changed, error) { return o.orderStore.Apply(ctx, changes) })
}

type failingPayments struct {
	paymentStore
	s sabotage
}

// Begin implements payment.Store.
func (p failingPayments) Begin(ctx context.Context, v payment.Payment) (now payment.Payment, created bool, err error) {
	err = p.s.done("payments.begin", func() error {
		now, created, err = p.paymentStore.Begin(ctx, v)
		return err
	})
	return now, created, err
}

// Advance implements payment.Store.
func (p failingPayments) Advance(ctx context.Context, step payment.Step) (payment.Payment, error) {
	return around(p.s, "payments.advance", func() (payment.Payment, error) { return p.paymentStore.Advance(ctx, step) })
}

func (s sabotage) provider(next payment.Provider) payment.Provider { return failingProvider{next, s} }

type failingProvider struct {
	payment.Provider
	s sabotage
}

// Charge implements payment.Provider.
func (p failingProvider) Charge(ctx context.Context, key id.ID, amount money.Money, method string) (payment.Charge, error) {
	return around(p.s, "provider.charge", func() (payment.Charge, error) { return p.Provider.Charge(ctx, key, amount, method) })
}

// Refund implements payment.Provider.
func (p failingProvider) Refund(ctx context.Context, key id.ID) (payment.Charge, error) {
	return around(p.s, "provider.refund", func() (payment.Charge, error) { return p.Provider.Refund(ctx, key) })
}

func (s sabotage) transport(next transport.Transport) transport.Transport {
	return failingTransport{next, s}
}

type failingTransport struct {
	transport.Transport
	s sabotage
}

// Send implements transport.Sender.
func (t failingTransport) Send(ctx context.Context, to transport.Service, e transport.Envelope) (transport.Receipt, error) {
	return around(t.s, "events.send", func() (transport.Receipt, error) { return t.Transport.Send(ctx, to, e) })
}

// Handle implements transport.Transport.
func (t failingTransport) Handle(to transport.Service, h transport.Handler) {
	t.Transport.Handle(to, func(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		return around(t.s, "events.handle", func() ([]transport.Envelope, error) { return h(ctx, e) })
	})
}

func (s sabotage) clock() func() time.Time {
	if s.step == nil {
		return time.Now
	}
	return s.step.now
}

// steppedClock is the machine's clock and what the file says.
type steppedClock struct {
	path string

	mu     sync.Mutex
	looked time.Time
	by     time.Duration
}

func (c *steppedClock) now() time.Time {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.looked) > 20*time.Millisecond {
		c.looked = now
		b, err := os.ReadFile(c.path)
		if err == nil {
			var by time.Duration
			if by, err = time.ParseDuration(strings.TrimSpace(string(b))); err == nil { // else it is being written
				c.by = by
			}
		}
	}
	return stepped(now, c.by)
}

// stepped sets the wall clock of a time by whole seconds and leaves its monotonic clock as it is, which package time has
// no call for: time.Time.Add moves both.
func stepped(t time.Time, by time.Duration) time.Time {
	const nanosecondBits = 30
	wall := (*uint64)(unsafe.Pointer(&t)) // its first field: a bit, 33 bits of seconds, 30 of nanoseconds
	*wall += uint64(by/time.Second) << nanosecondBits
	return t
}
