//go:build faults

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"flashsale/bench/journey"
	"flashsale/id"
	"flashsale/reservation"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// The load of the suite is open: shoppers come by a schedule, whatever the answers do. Together they want some twenty
// times the stock. Everything that they will do is drawn from the seed before they come.
const (
	arrivals    = 80  // a second, unless a test says how long they take to come
	underWay    = 512 // shoppers at a time; who comes when so many are there is turned away
	crowdBuyers = 16  // who logs in before the load; each is many of its shoppers
	plainBuyers = 4   // who buys the rest
	holdFor     = 3 * time.Second
	patience    = 90 * time.Second // how long a request is repeated, or a decision waited for
)

// demand is how many shoppers want twenty times the stock: they want two units each on average.
func demand(stock int64) int { return 11 * int(stock) }

// plan is what one shopper will do.
type plan struct {
	at       time.Duration // after the load's beginning
	quantity int
	repeat   repeats // of the reservation
	again    bool    // the payment is sent twice at the same time
	think    time.Duration
	then     string // what becomes of the hold
	method   string
	wait     bool // asks to wait for the decision, instead of looking for it
}

// repeats says how a request is sent twice with the same key.
type repeats int

const (
	once repeats = iota
	together
	afterwards
)

// What becomes of a hold.
const (
	abandon = "abandon"
	cancel  = "cancel"
	decline = "decline" // and then reserve again, and pay with another card
	pay     = "pay"
	refund  = "refund" // pay, and give it back once it is confirmed
)

// plans draws what each of the shoppers will do; two fifths of those who win walk away.
func plans(seed uint64, shoppers int, window time.Duration) []plan {
	all := make([]plan, shoppers)
	for n := range all {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		p := plan{
			at:       time.Duration((float64(n) + r.Float64()) / float64(shoppers) * float64(window)),
			quantity: 1 + r.IntN(3), think: time.Duration(r.IntN(300)) * time.Millisecond, again: r.IntN(10) == 0, wait: r.IntN(2) == 0,
		}
		if r.IntN(10) == 0 {
			p.repeat = together + repeats(r.IntN(2))
		}
		switch f := r.Float64(); {
		case f < 0.40:
			p.then = abandon
		case f < 0.50:
			p.then = cancel
		case f < 0.62:
			p.then = decline
		case f < 0.75:
			p.then = refund
		default:
			p.then = pay
		}
		// tok_card meets the provider's faults that are set; the others decide for themselves.
		p.method = []string{"tok_ok", "tok_ok", "tok_card", "tok_card", "tok_charge_then_timeout", "tok_timeout"}[r.IntN(6)]
		all[n] = p
	}
	return all
}

// buyer is somebody who has logged in.
type buyer struct {
	id    id.ID
	token string
}

// wish is one reservation that somebody asks for, with one key.
type wish struct {
	buyer    buyer
	key      string
	quantity int
	asked    time.Time // first
}

// load is a crowd at work, and what it was told.
type load struct {
	s      *system
	base   string
	seed   uint64
	stock  int64
	sale   journey.Sale
	plans  []plan
	window time.Duration
	buyers []buyer
	plain  []buyer
	boss   string // the operator's token
	client *http.Client
	cuts   bool // connections to the address may fail
	jumps  bool // clocks do: a hold may end at any moment
	parts  int  // they come in so many parts, each when next says so, and stock is added for each; 0: in one
	next   chan struct{}
	done   atomic.Int64

	mu      sync.Mutex
	wishes  map[id.ID]wish
	log     []entry
	added   int64          // units that the operator was told are added
	trouble map[string]int // answers that say: not now, ask again
	counts  map[string]int
	wrong   []string
}

// tally is what the load came to.
type tally struct {
	counts, trouble map[string]int
	wrong           []string
}

// crowd opens a sale at an address and has a crowd come, arrivals a second.
func (s *system) crowd(base string, stock int64, shoppers int) (*load, int64, journey.Sale, <-chan tally) {
	s.t.Helper()
	return s.crowdFor(base, stock, shoppers, time.Duration(shoppers)*time.Second/arrivals, 1, true)
}

// crowdFor has them come within a window, as a seed says. cuts says that connections to the address may fail. special
// makes the crowd another one before it comes.
func (s *system) crowdFor(base string, stock int64, shoppers int, window time.Duration, seed uint64, cuts bool, special ...func(*load)) (*load, int64, journey.Sale, <-chan tally) {
	s.t.Helper()
	sale, err := journey.OpenSale(s.t.Context(), journey.Crowd{
		Base: base, Operator: operator, Password: password, Stock: stock, Units: 1, Hold: holdFor, Client: s.client,
		Limit: max(6, int(stock+2)/3), // plainBuyers of them can buy everything
	})
	must(s.t, err)
	l := &load{
		s: s, base: base, seed: seed, stock: stock, sale: sale, plans: plans(seed, shoppers, window), window: window, boss: s.login(base, operator).token, cuts: cuts,
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
		wishes: map[id.ID]wish{}, trouble: map[string]int{}, counts: map[string]int{},
	}
	s.t.Cleanup(l.client.CloseIdleConnections)
	l.buyers, l.plain = s.buyers(base)
	for _, change := range special {
		change(l)
	}
	done := make(chan tally, 1)
	go func() { done <- l.run(s.t.Context()) }()
	return l, stock, sale, done
}

// buyers registers those who buy in this system, the first time, and logs them in.
func (s *system) buyers(base string) (crowd, plain []buyer) {
	s.t.Helper()
	for n := len(s.known); n < crowdBuyers+plainBuyers; n++ {
		p := person{s: s, base: base}
		who := map[string]string{"email": fmt.Sprintf("buyer-%d@example.com", n), "password": password}
		r := p.do("POST", "/api/v1/auth/register", who)
		if r.status != http.StatusCreated {
			s.t.Fatalf("register: %d %v", r.status, r.body)
		}
		b := buyer{}
		var err error
		b.id, err = id.Parse(fmt.Sprint(r.body["id"]))
		must(s.t, err)
		if r = p.do("POST", "/api/v1/auth/login", who); r.status != http.StatusOK {
			s.t.Fatalf("login: %d %v", r.status, r.body)
		}
		b.token = fmt.Sprint(r.body["access_token"])
		s.known = append(s.known, b)
	}
	return s.known[:crowdBuyers], s.known[crowdBuyers:]
}

// at waits until so many shoppers of a crowd are done.
func (s *system) at(run *load, shoppers int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d shoppers are done", shoppers), 4*time.Minute, func() bool { return run.done.Load() >= int64(shoppers) })
}

// run has the shoppers come, and the operator add stock twice, and waits for all of them.
func (l *load) run(ctx context.Context) tally {
	var all sync.WaitGroup
	began := time.Now()
	opened := began
	all.Go(func() {
		for n := range 2 {
			if pause(ctx, time.Until(opened.Add(l.window*time.Duration(n+1)/3))) == nil {
				l.addStock(ctx, n, max(1, l.stock/10))
			}
		}
	})
	slots := make(chan struct{}, underWay)
	for n, p := range l.plans {
		if l.parts > 0 && n > 0 && n*l.parts/len(l.plans) > (n-1)*l.parts/len(l.plans) {
			select {
			case <-l.next:
			case <-ctx.Done():
			}
			began = time.Now().Add(-p.at)
			all.Go(func() { l.addStock(ctx, 2+n, max(1, l.stock/4)) })
		}
		if pause(ctx, time.Until(began.Add(p.at))) != nil {
			break
		}
		l.count("came", 1)
		l.count("units wanted", p.quantity)
		select {
		case slots <- struct{}{}:
		default:
			l.count("turned away", 1)
			l.done.Add(1)
			continue
		}
		all.Go(func() {
			l.shop(ctx, n, p)
			l.done.Add(1)
			<-slots
		})
	}
	all.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return tally{maps.Clone(l.counts), maps.Clone(l.trouble), slices.Clone(l.wrong)}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (l *load) count(what string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what] += n
}

// mistake notes what a right system does not do.
func (l *load) mistake(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// note writes down what somebody was told of a reservation.
func (l *load) note(rid id.ID, step, answer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = append(l.log, entry{rid, step, answer})
	l.counts[step+" "+answer]++
}

// shop is what one shopper does.
func (l *load) shop(ctx context.Context, n int, p plan) {
	who := l.buyers[n%len(l.buyers)]
	key := fmt.Sprintf("%s-%d-%d", l.sale.SKU, l.seed, n)
	rid, held := l.reserve(ctx, who, key, p.quantity, p.repeat, p.wait)
	if !held || pause(ctx, p.think) != nil {
		return
	}
	l.count("plan "+p.then, 1)
	switch p.then {
	case abandon:
	case cancel:
		l.cancel(ctx, who, rid)
	case decline:
		if l.pay(ctx, who, rid, key, "tok_decline", p.again) == "declined" {
			if rid, held = l.reserve(ctx, who, key+"-again", p.quantity, once, p.wait); held {
				l.pay(ctx, who, rid, key, "tok_ok", false)
			}
		}
	case pay:
		l.pay(ctx, who, rid, key, p.method, p.again)
	case refund:
		if l.pay(ctx, who, rid, key, p.method, p.again) == "captured" {
			l.refund(ctx, who, rid)
		}
	}
}

// answer is what came back.
type answer struct {
	status int // 0: no answer
	kind   string
	header http.Header
	ID     id.ID                   `json:"id"`
	State  string                  `json:"state"`
	Reason string                  `json:"reason"`
	Units  int                     `json:"quantity"`
	Type   string                  `json:"type"`
	Items  []struct{ Stock int64 } `json:"items"`
	text   string
}

func (a answer) String() string { return fmt.Sprintf("%d %.200s", a.status, a.text) }

func (l *load) send(ctx context.Context, token, method, path string, body any, headers ...string) (answer, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, l.base+path, payload)
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return answer{}, err
	}
	a := answer{status: resp.StatusCode, header: resp.Header, text: string(text)}
	if err := json.Unmarshal(text, &a); err != nil && resp.StatusCode < 300 {
		return answer{}, err
	}
	a.kind = strings.TrimPrefix(a.Type, "/problems/")
	return a, nil
}

// ask sends a request, and sends it again for as long as it is told to. unsure says that one of them may have had an
// effect of which nobody has told. An answer with status 0 is none in all that time, which is a mistake.
func (l *load) ask(ctx context.Context, token, method, path string, body any, headers ...string) (_ answer, unsure bool) {
	for giveUp := time.Now().Add(patience); ; {
		a, err := l.send(ctx, token, method, path, body, headers...)
		wait := 200 * time.Millisecond
		switch {
		case err != nil && ctx.Err() != nil:
			return answer{}, true
		case err != nil:
			unsure = true
			l.troubled("no answer")
			if !l.cuts {
				l.mistake("%s %s: the connection failed: %v", method, path, err)
			}
		case a.status == http.StatusServiceUnavailable:
			unsure = unsure || a.kind != "overloaded" && a.kind != "draining" && a.kind != "not-ready"
			l.troubled("503 " + a.kind)
			secs, err := strconv.Atoi(a.header.Get("Retry-After"))
			if err != nil || secs < 1 || a.kind == "" {
				l.mistake("%s %s: 503 does not say what it is, and when to come again: %v %v", method, path, a.header, a)
			}
			wait = min(time.Duration(secs)*time.Second, time.Second)
		case a.status == http.StatusConflict && a.kind == "in-flight":
			l.troubled("409 in-flight")
		default:
			return a, unsure
		}
		if time.Now().After(giveUp) {
			l.mistake("%s %s: no answer in %s but %v, %v", method, path, patience, a, err)
			return answer{}, true
		}
		if pause(ctx, wait/2+time.Duration(rand.Int64N(int64(wait)))) != nil {
			return answer{}, true
		}
	}
}

// came is how many shoppers have come.
func (l *load) came() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts["came"]
}

// told is what shoppers have been told so far that sends them again.
func (l *load) told() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.trouble)
}

func (l *load) troubled(by string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trouble[by]++
}

// reserve asks for units with one key, once or twice, and returns whether they are held.
func (l *load) reserve(ctx context.Context, who buyer, key string, quantity int, how repeats, wait bool) (id.ID, bool) {
	rid := reservation.Request{User: who.id, Key: key}.ID() // the same as the service's, or the checks fail
	asked := time.Now()
	l.mu.Lock()
	l.wishes[rid] = wish{who, key, quantity, asked}
	l.mu.Unlock()
	first, second := "", ""
	switch how {
	case once:
		first = l.reserveOnce(ctx, who, rid, key, quantity, false, wait)
	case together:
		var both sync.WaitGroup
		both.Go(func() { second = l.reserveOnce(ctx, who, rid, key, quantity, true, !wait) })
		first = l.reserveOnce(ctx, who, rid, key, quantity, true, wait)
		both.Wait()
	case afterwards:
		first = l.reserveOnce(ctx, who, rid, key, quantity, false, wait)
		second = l.reserveOnce(ctx, who, rid, key, quantity, true, wait)
		// Once it is held it is held, until it is over.
		if first == "held" && second == "refused" && !l.jumps && time.Now().Before(asked.Add(holdFor)) {
			l.mistake("reservation %s was acknowledged, and %s later its repetition is refused", rid, time.Since(asked))
		}
	}
	if how != once {
		l.count("keys sent twice", 1)
	}
	return rid, first == "held" || second == "held"
}

// reserveOnce asks with a key, and waits for the decision. repeated says that the key was, or is being, used.
func (l *load) reserveOnce(ctx context.Context, who buyer, rid id.ID, key string, quantity int, repeated, wait bool) string {
	headers := []string{"Idempotency-Key", key}
	if wait {
		headers = append(headers, "Prefer", "wait=5")
	}
	began := time.Now()
	a, unsure := l.ask(ctx, who.token, "POST", "/api/v1/reservations", map[string]any{"sale_id": l.sale.ID, "sku": l.sale.SKU, "quantity": quantity}, headers...)
	repeated = repeated || unsure
	long := l.jumps || time.Since(began) >= holdFor // the hold may have ended before anybody could tell of it
	tell := func(answer string) string {
		l.note(rid, "reserve", answer)
		return answer
	}
	mine := a.ID == rid && a.Units == quantity
	switch {
	case a.status == 0:
		return tell("silence")
	case a.status == http.StatusCreated && a.State == string(reservation.Held) && mine:
		return tell("held")
	case a.status == http.StatusAccepted && a.State == string(reservation.Requested) && mine:
		tell("accepted")
		return tell(l.decision(ctx, who, rid))
	case a.status == http.StatusGone && a.kind == "expired" && (repeated || long):
		return tell("over")
	case a.status == http.StatusConflict && (a.kind == "held-out" || a.kind == "sold-out" || a.kind == "limit-reached"):
		l.count("refused "+a.kind, 1)
		if repeated { // another one of the same key may have been held meanwhile
			return tell("unsure refusal")
		}
		return tell("refused")
	}
	l.mistake("reserve %s (quantity %d, repeated %t): %v", rid, quantity, repeated, a)
	return tell("silence")
}

// decision waits until an accepted request is decided.
func (l *load) decision(ctx context.Context, who buyer, rid id.ID) string {
	for giveUp := time.Now().Add(patience); time.Now().Before(giveUp) && pause(ctx, 100*time.Millisecond) == nil; {
		a, _ := l.ask(ctx, who.token, "GET", "/api/v1/reservations/"+rid.String(), nil)
		switch reservation.State(a.State) {
		case reservation.Requested:
			continue
		case reservation.Held:
			return "held"
		case reservation.Refused:
			if !slices.Contains([]string{"held_out", "sold_out", "limit_reached"}, a.Reason) {
				l.mistake("accepted request %s is refused: %v", rid, a)
			}
			return "refused after all"
		case reservation.Expired:
			return "over"
		}
		l.mistake("accepted request %s: %v", rid, a)
		return "silence"
	}
	l.mistake("accepted request %s is not decided in %s", rid, patience)
	return "silence"
}

// pay pays for a hold with one key, waits for the outcome, and returns it.
func (l *load) pay(ctx context.Context, who buyer, rid id.ID, key, method string, again bool) string {
	if !again {
		return l.payOnce(ctx, who, rid, key, method)
	}
	l.count("payments sent twice", 1)
	var both sync.WaitGroup
	var second string
	both.Go(func() { second = l.payOnce(ctx, who, rid, key, method) })
	first := l.payOnce(ctx, who, rid, key, method)
	both.Wait()
	if first != second && first != "silence" && second != "silence" {
		l.mistake("payment of %s, sent twice with the same key, is %s and %s", rid, first, second)
	}
	return first
}

func (l *load) payOnce(ctx context.Context, who buyer, rid id.ID, key, method string) string {
	a, _ := l.ask(ctx, who.token, "POST", "/api/v1/orders/"+rid.String()+"/payments", map[string]string{"method": method}, "Idempotency-Key", "pay-"+key)
	tell := func(answer string) string {
		l.note(rid, "pay", answer)
		return answer
	}
	switch {
	case a.status == 0:
		return tell("silence")
	case a.status == http.StatusCreated && a.State == "captured":
		return tell("captured")
	case a.status == http.StatusPaymentRequired && a.kind == "payment-declined":
		return tell("declined")
	case a.status == http.StatusGone && a.kind == "expired":
		return tell("over")
	case a.status != http.StatusAccepted:
		l.mistake("pay for %s with %s: %v", rid, method, a)
		return tell("silence")
	}
	tell("accepted")
	at := a.header.Get("Location")
	for giveUp := time.Now().Add(patience); time.Now().Before(giveUp) && pause(ctx, 100*time.Millisecond) == nil; {
		a, _ = l.ask(ctx, who.token, "GET", at, nil)
		switch a.State {
		case "captured", "declined":
			return tell(a.State)
		case "refunded": // captured too late: it was given back
			return tell("over")
		case "refused":
			if a.Reason != "expired" {
				l.mistake("pay for %s with %s: %v", rid, method, a)
			}
			return tell("over")
		case "requested", "charging", "unknown", "refunding":
		default:
			l.mistake("the payment for %s: %v", rid, a)
			return tell("silence")
		}
	}
	l.mistake("the payment for %s has no outcome in %s: %v", rid, patience, a)
	return tell("silence")
}

func (l *load) cancel(ctx context.Context, who buyer, rid id.ID) {
	a, _ := l.ask(ctx, who.token, "DELETE", "/api/v1/reservations/"+rid.String(), nil)
	switch {
	case a.status == 0:
		l.note(rid, "cancel", "silence")
	case a.status == http.StatusOK && a.State == string(reservation.Cancelled):
		l.note(rid, "cancel", "cancelled")
	case a.status == http.StatusAccepted:
		l.note(rid, "cancel", "accepted")
	case a.status == http.StatusGone && a.kind == "expired": // before, or since the service looked
		l.note(rid, "cancel", "over")
	default:
		l.note(rid, "cancel", "silence")
		l.mistake("cancel %s: %v", rid, a)
	}
}

// refund has the operator give the money back, once the order is confirmed.
func (l *load) refund(ctx context.Context, who buyer, rid id.ID) {
	confirmed := false
	for giveUp := time.Now().Add(patience); !confirmed && time.Now().Before(giveUp) && pause(ctx, 50*time.Millisecond) == nil; {
		a, _ := l.ask(ctx, who.token, "GET", "/api/v1/orders/"+rid.String(), nil)
		confirmed = a.State == "confirmed"
	}
	if !confirmed {
		l.mistake("order %s was paid, and is not confirmed in %s", rid, patience)
		return
	}
	a, _ := l.ask(ctx, l.boss, "POST", "/api/v1/admin/orders/"+rid.String()+"/refund", nil)
	switch {
	case a.status == 0:
		l.note(rid, "refund", "silence")
	case a.status == http.StatusOK && a.State == "refunded":
		l.note(rid, "refund", "refunded")
	case a.status == http.StatusAccepted:
		l.note(rid, "refund", "accepted")
	default:
		l.note(rid, "refund", "silence")
		l.mistake("refund %s: %v", rid, a)
	}
}

// addStock has the operator add units, and send that twice.
func (l *load) addStock(ctx context.Context, n int, units int64) {
	for range 2 {
		a, _ := l.ask(ctx, l.boss, "POST", "/api/v1/admin/sales/"+l.sale.ID+"/items/"+l.sale.SKU+"/stock", map[string]any{"quantity": units}, "Idempotency-Key", fmt.Sprint("more-", n))
		if a.status != http.StatusOK && a.status != http.StatusAccepted {
			l.mistake("add stock: %v", a)
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.added += units
	l.counts["units added"] += int(units)
}

// settled waits for the crowd, holds what it was told against the ledger, and has everything that is left sold: nothing
// acknowledged is lost or undecided, every unit is sold exactly once, and no answer was one that a right system does
// not give.
func (s *system) settled(run *load, _ int64, sale journey.Sale, done <-chan tally) {
	s.t.Helper()
	res := <-done
	var got map[id.ID]fact
	s.until("every hold is paid for or over, and what was refunded is given back", 60*time.Second, func() bool {
		_ = pause(s.t.Context(), 100*time.Millisecond) // each look is a connection of its own
		got = s.ledger(sale)
		return !owed(run.log, got) && !slices.ContainsFunc(slices.Collect(maps.Values(got)), func(f fact) bool { return f.state == reservation.Held || f.state == reservation.Paying })
	})
	total := run.stock + run.added
	s.until("the ledger has the stock that was added", 45*time.Second, func() bool {
		_ = pause(s.t.Context(), 100*time.Millisecond)
		return s.number(s.books, `SELECT total FROM sale_item WHERE sale = $1`, sale.ID) == total
	})
	began := time.Now()
	run.sellThrough(s.t.Context(), total)
	took := time.Since(began)
	got = s.ledger(sale)
	run.mu.Lock()
	wrong := append(slices.Clone(run.wrong), compare(run.wishes, run.log, got)...)
	run.mu.Unlock()
	paid := units(got, reservation.Paid)
	if paid != total {
		wrong = append(wrong, fmt.Sprintf("%d units are sold, of %d", paid, total))
	}
	var confirmed int64
	s.until("every order that is paid is confirmed", 45*time.Second, func() bool {
		_ = pause(s.t.Context(), 50*time.Millisecond)
		confirmed = s.number(s.orders, `SELECT coalesce(sum(qty), 0)::bigint FROM orders WHERE sale = $1 AND state = 'confirmed'`, sale.ID)
		return confirmed == paid || len(wrong) > 0
	})
	if len(wrong) > 0 {
		s.blame("seed %d: %d mistakes:\n%s", run.seed, len(wrong), strings.Join(wrong[:min(len(wrong), 12)], "\n"))
	}
	s.t.Logf("%s; units sold %d of %d, the last %d in %.1f s", res, paid, total, run.counts["units of the rest"], took.Seconds())
}

func (t tally) String() string {
	return fmt.Sprintf("%s; to be repeated: %s", list(t.counts), list(t.trouble))
}

func list(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}

// sellThrough has plain shoppers buy what is left, until nothing is, and then somebody is told that it is sold out.
func (l *load) sellThrough(ctx context.Context, total int64) {
	giveUp := time.Now().Add(60 * time.Second)
	for round := 0; ; round++ {
		got := l.s.ledger(l.sale)
		left := total - units(got, reservation.Paid) - units(got, reservation.Held) - units(got, reservation.Paying)
		if units(got, reservation.Paid) == total {
			break
		}
		if time.Now().After(giveUp) || ctx.Err() != nil {
			l.mistake("%d of %d units cannot be bought", left, total)
			return
		}
		var all sync.WaitGroup
		for n := range l.plain {
			who := l.plain[(n+round)%len(l.plain)]
			quantity := min(1+(round+n)%3, int(left))
			if quantity <= 0 {
				break
			}
			left -= int64(quantity)
			all.Go(func() {
				key := fmt.Sprintf("%s-rest-%d-%d", l.sale.SKU, round, n)
				if rid, held := l.reserve(ctx, who, key, quantity, once, true); held && l.pay(ctx, who, rid, key, "tok_ok", false) == "captured" {
					l.count("units of the rest", quantity)
				}
			})
		}
		all.Wait()
		_ = pause(ctx, 20*time.Millisecond) // what is captured is paid for in a moment
	}
	for giveUp = time.Now().Add(15 * time.Second); ; {
		a, _ := l.ask(ctx, l.plain[0].token, "POST", "/api/v1/reservations", wants(l.sale), "Idempotency-Key", l.sale.SKU+"-one-more")
		if a.status == http.StatusConflict && a.kind == "sold-out" || ctx.Err() != nil {
			return
		}
		if a.kind != "held-out" && a.kind != "limit-reached" || time.Now().After(giveUp) {
			l.mistake("everything is sold, and somebody who asks is told %v", a)
			return
		}
		_ = pause(ctx, 100*time.Millisecond)
	}
}

// fact is a row of the ledger.
type fact struct {
	user     id.ID
	quantity int
	state    reservation.State
}

// ledger reads every reservation of a sale.
func (s *system) ledger(sale journey.Sale) map[id.ID]fact {
	all := map[id.ID]fact{}
	err := query(s.t.Context(), s.books, `SELECT id, user_id, qty, state FROM reservation WHERE sale = $1`, sale.ID, func(row pgx.Rows) error {
		var rid id.ID
		var f fact
		err := row.Scan(&rid, &f.user, &f.quantity, &f.state)
		all[rid] = f
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// number asks a database for one number of a sale.
func (s *system) number(url, sql, sale string) (n int64) {
	s.t.Helper()
	must(s.t, query(s.t.Context(), url, sql, sale, func(row pgx.Rows) error { return row.Scan(&n) }))
	return n
}

func query(ctx context.Context, url, sql, sale string, row func(pgx.Rows) error) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	rows, err := c.Query(ctx, sql, sale)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func units(rows map[id.ID]fact, state reservation.State) (n int64) {
	for _, f := range rows {
		if f.state == state {
			n += int64(f.quantity)
		}
	}
	return n
}

// TestPlans: the crowd wants what it is said to want, and the same again from the same seed.
func TestPlans(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		const stock = 30
		all := plans(seed, demand(stock), 4*time.Second)
		if !slices.Equal(all, plans(seed, demand(stock), 4*time.Second)) {
			t.Errorf("seed %d: two crowds from one seed differ", seed)
		}
		wanted, last := 0, time.Duration(0)
		share := map[string]int{}
		for _, p := range all {
			wanted += p.quantity
			share[p.then]++
			share[fmt.Sprint("quantity ", p.quantity)]++
			if p.repeat != once {
				share["twice"]++
			}
			if p.at < last || p.at > 4*time.Second {
				t.Errorf("seed %d: somebody comes at %s, after %s", seed, p.at, last)
			}
			last = p.at
		}
		if wanted < 20*stock {
			t.Errorf("seed %d: %d units are wanted, of %d", seed, wanted, stock)
		}
		for what, percent := range map[string]int{abandon: 40, "twice": 10, cancel: 10, decline: 12, refund: 13, "quantity 1": 33, "quantity 3": 33} {
			if got := share[what] * 100 / len(all); got < percent*6/10 || got > percent*15/10 {
				t.Errorf("seed %d: %s %d %%, want about %d", seed, what, got, percent)
			}
		}
	}
}
