package journey

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Crowd says who comes and what they want.
type Crowd struct {
	Base         string // of the API, such as http://127.0.0.1:8080
	Operator     string // e-mail address
	Password     string // the operator's
	Shoppers     int
	Stock        int64
	Units        int // per order
	Limit        int // per shopper; 0 means Units, and below it there is none
	Hold         time.Duration
	AbandonRate  float64 // share of the winners that walk away without paying
	Concurrency  int     // shoppers at the same time
	Seed         uint64
	Client       *http.Client
	Decide       time.Duration // how long a decision or confirmation may take
	GiveUpOnHeld time.Duration // how long a shopper waits for units that others hold
	Reconnect    time.Duration // how long a request that failed or was shed is repeated; 0: a failed one not at all, a shed one 20 times
}

// Result is what the crowd saw.
type Result struct {
	Shoppers   int `json:"shoppers"`
	Journeys   int `json:"journeys"` // finished, whichever way
	Sold       int `json:"orders_confirmed"`
	SoldUnits  int `json:"units_confirmed"`
	Declined   int `json:"declined"`
	Abandoned  int `json:"abandoned"`
	Expired    int `json:"expired"` // paid too late
	SoldOut    int `json:"told_sold_out"`
	HeldOut    int `json:"told_held_out"` // gave up waiting for held units
	Waits      int `json:"times_held_out"`
	Unexpected int `json:"unexpected"`

	Acknowledged int `json:"acknowledged"` // reservations answered 201 or 202
	Lost         int `json:"lost"`         // acknowledged, but not there with the same quantity
	Undecided    int `json:"undecided"`    // answered 202, and not decided in time

	Requests int             `json:"requests"`
	Took     time.Duration   `json:"took_ns"`
	Steps    map[string]Step `json:"steps"`
	Errors   []string        `json:"errors,omitempty"` // the first few
}

// Step is the latency of one step of the journey.
type Step struct {
	Count int           `json:"count"`
	P50   time.Duration `json:"p50_ns"`
	P95   time.Duration `json:"p95_ns"`
	P99   time.Duration `json:"p99_ns"`
	Max   time.Duration `json:"max_ns"`
}

// Progress is a glance at a running crowd.
type Progress struct {
	Done, Of, Sold, HeldOut, SoldOut, Declined, Abandoned int
}

// Sale is the sample sale that a crowd comes for.
type Sale struct {
	ID      string
	SKU     string
	Product string
}

// Run is a crowd at work.
type Run struct {
	crowd Crowd
	sale  Sale

	done, sold, heldOut, soldOut, declined, abandoned atomic.Int64

	mu     sync.Mutex
	times  map[string][]time.Duration
	result Result
	acks   []ack
}

// ack is one acknowledgement as a shopper remembers it.
type ack struct {
	token, id string
	quantity  int
}

// New returns a crowd that is about to come to a sale.
func New(c Crowd, sale Sale) *Run {
	return &Run{crowd: c, sale: sale, times: map[string][]time.Duration{}, result: Result{Shoppers: c.Shoppers, Steps: map[string]Step{}}}
}

// Progress may be called while Do runs.
func (r *Run) Progress() Progress {
	return Progress{
		Done: int(r.done.Load()), Of: r.crowd.Shoppers, Sold: int(r.sold.Load()), HeldOut: int(r.heldOut.Load()),
		SoldOut: int(r.soldOut.Load()), Declined: int(r.declined.Load()), Abandoned: int(r.abandoned.Load()),
	}
}

func (r *Run) person(token string) *client {
	return &client{http: r.crowd.Client, base: r.crowd.Base, token: token, note: r.note, reconnect: r.crowd.Reconnect}
}

func (r *Run) note(step string, d time.Duration, _ int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Requests++
	r.times[step] = append(r.times[step], d)
}

// Do sends every shopper through the journey and waits for all of them, or for ctx.
func (r *Run) Do(ctx context.Context) Result {
	began := time.Now()
	shoppers := make(chan int)
	var wg sync.WaitGroup
	for range min(r.crowd.Concurrency, r.crowd.Shoppers) {
		wg.Go(func() {
			for n := range shoppers {
				r.count(r.shop(ctx, n))
			}
		})
	}
	for n := range r.crowd.Shoppers {
		select {
		case shoppers <- n:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(shoppers)
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Took = time.Since(began)
	for step, ds := range r.times {
		r.result.Steps[step] = summary(ds)
	}
	return r.result
}

func summary(ds []time.Duration) Step {
	slices.Sort(ds)
	at := func(q float64) time.Duration { return ds[min(int(q*float64(len(ds))), len(ds)-1)] }
	return Step{Count: len(ds), P50: at(0.50), P95: at(0.95), P99: at(0.99), Max: ds[len(ds)-1]}
}

// ending is how a journey ended.
type ending int

const (
	confirmed ending = iota
	declined
	abandoned
	expired
	soldOut
	heldOut
	failed
)

func (r *Run) count(end ending, err error) {
	r.done.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Journeys++
	switch end {
	case confirmed:
		r.sold.Add(1)
		r.result.Sold++
		r.result.SoldUnits += r.crowd.Units
	case declined:
		r.declined.Add(1)
		r.result.Declined++
	case abandoned:
		r.abandoned.Add(1)
		r.result.Abandoned++
	case expired:
		r.result.Expired++
	case soldOut:
		r.soldOut.Add(1)
		r.result.SoldOut++
	case heldOut:
		r.heldOut.Add(1)
		r.result.HeldOut++
	case failed:
		if errors.Is(err, errGaveUp) {
			r.result.Undecided++
		} else {
			r.result.Unexpected++
		}
		if len(r.result.Errors) < 5 {
			r.result.Errors = append(r.result.Errors, err.Error())
		}
	}
}

// shop is one shopper's journey.
func (r *Run) shop(ctx context.Context, n int) (ending, error) {
	rng := rand.New(rand.NewPCG(r.crowd.Seed, uint64(n)))
	me := r.person("")
	who := map[string]string{"email": fmt.Sprintf("shopper-%d-%d-%s@example.com", r.crowd.Seed, n, strings.ToLower(r.sale.SKU)), "password": "correct horse " + strconv.Itoa(n)}
	a, err := me.patient(ctx, "register", http.MethodPost, "/api/v1/auth/register", "", who)
	if done := err == nil && (a.status == http.StatusCreated || a.repeated && a.problem().is("email-taken")); !done {
		return failed, orSurprise(err, a, "register")
	}
	var tokens struct {
		Access string `json:"access_token"`
	}
	a, err = me.patient(ctx, "login", http.MethodPost, "/api/v1/auth/login", "", who)
	if err == nil {
		err = a.into("login", &tokens, http.StatusOK)
	}
	if err != nil {
		return failed, err
	}
	me.token = tokens.Access

	var cart struct {
		ID string `json:"id"`
	}
	a, err = me.patient(ctx, "create cart", http.MethodPost, "/api/v1/carts", "", nil)
	if err == nil {
		err = a.into("create cart", &cart, http.StatusCreated)
	}
	if err != nil {
		return failed, err
	}
	if a, err = me.patient(ctx, "fetch product", http.MethodGet, "/api/v1/products/"+r.sale.Product, "", nil); err != nil || a.status != http.StatusOK {
		return failed, orSurprise(err, a, "fetch product")
	}
	item := map[string]any{"sale_id": r.sale.ID, "sku": r.sale.SKU, "quantity": r.crowd.Units}
	a, err = me.patient(ctx, "add item", http.MethodPost, "/api/v1/carts/"+cart.ID+"/items", "", item)
	if err != nil || a.status != http.StatusOK && a.status != http.StatusCreated {
		return failed, orSurprise(err, a, "add item")
	}
	item["cart_id"] = cart.ID
	order, end, err := r.reserve(ctx, me, n, item)
	if order == "" {
		return end, err
	}
	if rng.Float64() < r.crowd.AbandonRate {
		return abandoned, nil
	}
	return r.pay(ctx, me, n, order)
}

func orSurprise(err error, a reply, step string) error {
	if err != nil {
		return err
	}
	return a.surprise(step)
}

// reserve asks for the units, and asks again while others hold them. It returns the order's id, or
// how the journey ended.
func (r *Run) reserve(ctx context.Context, me *client, n int, item map[string]any) (string, ending, error) {
	patience := time.Now().Add(r.crowd.GiveUpOnHeld)
	for attempt := 0; ; attempt++ {
		key := fmt.Sprintf("reserve-%d-%d-%d", r.crowd.Seed, n, attempt)
		a, err := me.patient(ctx, "reserve", http.MethodPost, "/api/v1/reservations", key, item)
		if err != nil {
			return "", failed, err
		}
		var held struct {
			ID    string `json:"id"`
			State string `json:"state"`
		}
		refusal := ""
		switch a.status {
		case http.StatusCreated, http.StatusAccepted:
			if err := a.into("reserve", &held, a.status); err != nil {
				return "", failed, err
			}
			if a.status == http.StatusAccepted {
				if refusal, err = r.decision(ctx, me, held.ID); err != nil {
					return "", failed, err
				}
			}
			if refusal == "" {
				r.acknowledge(me, held.ID)
				return held.ID, 0, nil
			}
		case http.StatusConflict:
			p := a.problem()
			switch {
			case p.is("sold-out"):
				refusal = "sold_out"
			case p.is("held-out"):
				refusal = "held_out"
			default:
				return "", failed, a.surprise("reserve")
			}
		case http.StatusGone:
			if !a.repeated || !a.problem().is("expired") {
				return "", failed, a.surprise("reserve")
			}
			continue // the answer was lost for longer than the hold lasted: again, with a new key
		default:
			return "", failed, a.surprise("reserve")
		}
		switch {
		case refusal == "sold_out":
			return "", soldOut, nil
		case refusal != "held_out":
			return "", failed, unexpected{"reserve", http.StatusOK, "refused: " + refusal}
		}
		r.mu.Lock()
		r.result.Waits++
		r.mu.Unlock()
		if time.Now().After(patience) {
			return "", heldOut, nil
		}
		if err := pause(ctx, a.retryAfter(250*time.Millisecond)); err != nil {
			return "", failed, err
		}
	}
}

// decision waits until an accepted request is decided: "" when held, else the refusal's reason.
func (r *Run) decision(ctx context.Context, me *client, id string) (refusal string, err error) {
	began := time.Now()
	err = me.until(ctx, "poll reservation", "/api/v1/reservations/"+id, r.crowd.Decide, func(a reply) (bool, error) {
		var now struct {
			State  string `json:"state"`
			Reason string `json:"reason"`
		}
		if err := a.into("poll reservation", &now, http.StatusOK); err != nil {
			return false, err
		}
		if now.State == "refused" {
			refusal = now.Reason
		}
		return now.State != "requested", nil
	})
	if err == nil {
		r.note("time to decision", time.Since(began), 0)
		r.mu.Lock()
		r.result.Requests-- // a duration of the shopper's, not a request
		r.mu.Unlock()
	}
	return refusal, err
}

func (r *Run) acknowledge(me *client, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Acknowledged++
	r.acks = append(r.acks, ack{token: me.token, id: id, quantity: r.crowd.Units})
}

func (r *Run) pay(ctx context.Context, me *client, n int, order string) (ending, error) {
	key := fmt.Sprintf("pay-%d-%d", r.crowd.Seed, n)
	a, err := me.patient(ctx, "pay", http.MethodPost, "/api/v1/orders/"+order+"/payments", key, map[string]string{"method": "tok_card"})
	if err != nil {
		return failed, err
	}
	switch a.status {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted:
	case http.StatusPaymentRequired:
		return declined, nil
	case http.StatusGone:
		return expired, nil
	default:
		return failed, a.surprise("pay")
	}
	end := confirmed
	began := time.Now()
	err = me.until(ctx, "poll order", "/api/v1/orders/"+order, r.crowd.Decide, func(a reply) (bool, error) {
		var now struct {
			State  string `json:"state"`
			Reason string `json:"reason"`
		}
		if err := a.into("poll order", &now, http.StatusOK); err != nil {
			return false, err
		}
		if now.State == "cancelled" {
			end = declined
			if now.Reason == "expired" {
				end = expired
			}
		}
		return now.State != "open", nil
	})
	if err != nil {
		return failed, err
	}
	if a.status == http.StatusAccepted {
		r.note("time to confirmation", time.Since(began), 0)
		r.mu.Lock()
		r.result.Requests--
		r.mu.Unlock()
	}
	return end, nil
}

// Verify looks up every acknowledged reservation as its shopper, and counts those that are not
// there with the quantity that was promised.
func (r *Run) Verify(ctx context.Context) (lost int, err error) {
	for _, a := range r.acks {
		c := client{http: r.crowd.Client, base: r.crowd.Base, token: a.token, reconnect: r.crowd.Reconnect}
		got, err := c.patient(ctx, "verify", http.MethodGet, "/api/v1/reservations/"+a.id, "", nil)
		if err != nil {
			return lost, err
		}
		var now struct {
			State    string `json:"state"`
			Quantity int    `json:"quantity"`
		}
		if got.into("verify", &now, http.StatusOK) != nil || now.State == "requested" || now.Quantity != a.quantity {
			lost++
		}
	}
	return lost, nil
}
