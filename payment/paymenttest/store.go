// Package paymenttest holds the suites that every store of payments and every provider passes.
package paymenttest

import (
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/money"
	"flashsale/payment"
	"flashsale/transport"
	"flashsale/transport/transporttest"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Store is what the suite exercises.
type Store interface {
	payment.Store
	payment.Auditor
	transport.Outbox
	Charges
}

// StoreUnderTest is a fresh store with what the suite needs to try it.
type StoreUnderTest struct {
	Store
	// Backdate makes a payment older by d: as if it had been begun and last moved that much earlier.
	Backdate func(t *testing.T, p id.ID, d time.Duration)
	// Corrupt runs SQL behind the store's back.
	Corrupt func(t *testing.T, sql string)
}

// Exercise runs the suite; open returns an empty store.
func Exercise(t *testing.T, open func(t *testing.T) StoreUnderTest) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *till){
		"a payment is begun":             storeBegins,
		"the same payment again":         storeBeginsAgain,
		"every step from every state":    storeSteps,
		"what a step changes":            storeStepFields,
		"a move and its news, or none":   storeAtomic,
		"the payments of an order":       storeForOrder,
		"what is stuck":                  storeStuck,
		"what is decided":                storeDecided,
		"a crowd on the same payments":   storeCrowd,
		"the outbox has what was said":   storeOutbox,
		"statement":                      storeStatement,
		"a charge is put once":           chargesPut,
		"a crowd on the same charge":     chargesCrowd,
		"the audit finds what is wrong":  storeAudit,
		"what is not there":              storeNothing,
		"amounts and texts as they were": storeValues,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &till{StoreUnderTest: open(t), t: t}
			test(t, s)
			s.wantAudit()
		})
	}
}

// till is a store, and words for what the suite does to it.
type till struct {
	StoreUnderTest
	t *testing.T
	n int
}

func states() []payment.State {
	return []payment.State{
		payment.Requested, payment.Charging, payment.Unknown, payment.Captured,
		payment.Declined, payment.Refused, payment.Refunding, payment.Refunded,
	}
}

func user(n int) id.ID { return id.Derive("user", fmt.Sprint(n)) }

func euros(cents int64) money.Money { return money.Money{Amount: cents, Currency: "EUR"} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

// fresh is a payment, of an order of its own, that no store has seen.
func (s *till) fresh() payment.Payment {
	s.n++
	key := fmt.Sprint("key-", s.n)
	order := id.DeriveFor(user(1), "order", key)
	return payment.Payment{
		ID: payment.NewID(user(1), order, key), Order: order, User: user(1), Amount: euros(990), Method: "tok",
		Fingerprint: [32]byte(slices.Repeat([]byte{byte(s.n)}, 32)), State: payment.Requested, TraceParent: "00-trace",
	}
}

func (s *till) begin(p payment.Payment) payment.Payment {
	s.t.Helper()
	now, created, err := s.Begin(s.t.Context(), p)
	must(s.t, err)
	if !created {
		s.t.Fatalf("%+v was there", now)
	}
	return now
}

// to moves a payment to a state, whatever it is in.
func (s *till) to(p payment.Payment, state payment.State) payment.Payment {
	s.t.Helper()
	p, err := s.Advance(s.t.Context(), payment.Step{Payment: p.ID, From: states(), To: state})
	must(s.t, err)
	return p
}

func (s *till) wantPayment(want payment.Payment) {
	s.t.Helper()
	got, err := s.Find(s.t.Context(), want.ID)
	if err != nil || got != want {
		s.t.Fatalf("found %+v, %v\nwant  %+v", got, err, want)
	}
}

// wantSaid empties the outbox, which has just what follows from these payments.
func (s *till) wantSaid(ps ...payment.Payment) {
	s.t.Helper()
	es, err := s.Unsent(s.t.Context(), 0, 1000)
	must(s.t, err)
	var want []transport.Envelope
	for _, p := range ps {
		if e, ok := payment.Follow(p); ok {
			want = append(want, e)
		}
	}
	if !transporttest.SameAll(es, want) {
		s.t.Fatalf("said %+v\nwant %+v", es, want)
	}
	ids := make([]id.ID, len(es))
	for i, e := range es {
		ids[i] = e.ID
	}
	must(s.t, s.MarkSent(s.t.Context(), ids))
}

// wantAudit holds the checks against the figures of those that must fail, by equation.
func (s *till) wantAudit(wrong ...audit.Check) {
	s.t.Helper()
	checks, err := s.Audit(s.t.Context())
	must(s.t, err)
	if len(checks) != 2 || checks[0].Equation != 6 || checks[1].Equation != 7 {
		s.t.Fatalf("checks %+v", checks)
	}
	for _, c := range checks {
		i := slices.IndexFunc(wrong, func(w audit.Check) bool { return w.Equation == c.Equation })
		if c.OK != (i < 0) || i >= 0 && c.Figures != wrong[i].Figures {
			s.t.Errorf("audit %d. %s: %s, ok %v", c.Equation, c.Name, c.Figures, c.OK)
		}
	}
}

func storeBegins(t *testing.T, s *till) {
	p := s.fresh()
	asked := p // what the store decides is the store's, whatever the caller says
	asked.State, asked.Reason, asked.ProviderRef = payment.Captured, "a reason", "a reference"
	asked.CreatedAt, asked.UpdatedAt = time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour)
	now := s.begin(asked)
	p.CreatedAt, p.UpdatedAt = now.CreatedAt, now.CreatedAt
	if now != p {
		t.Fatalf("begun %+v\nwant  %+v", now, p)
	}
	if at := now.CreatedAt; at != at.UTC().Truncate(time.Microsecond) || time.Since(at).Abs() > time.Hour {
		t.Fatalf("begun at %s", at)
	}
	s.wantPayment(p)
	s.wantSaid(p)
}

func storeBeginsAgain(t *testing.T, s *till) {
	p := s.begin(s.fresh())
	s.wantSaid(p)
	again := p
	again.Amount, again.Method, again.TraceParent = euros(1), "another", "01-trace"
	for _, state := range []payment.State{payment.Requested, payment.Charging, payment.Captured} {
		if state != payment.Requested {
			p = s.to(p, state)
			s.wantSaid(p)
		}
		if now, created, err := s.Begin(t.Context(), again); err != nil || created || now != p {
			t.Fatalf("again when %s: %+v, %v, %v\nwant %+v", state, now, created, err, p)
		}
		other := p
		other.Fingerprint[31]++
		_, created, err := s.Begin(t.Context(), other)
		wantErr(t, err, payment.ErrKeyReused)
		if created {
			t.Fatal("another payment under the same key")
		}
		s.wantPayment(p)
		s.wantSaid()
	}
}

// storeSteps tries a step to every state from every state: where it starts from decides.
func storeSteps(t *testing.T, s *till) {
	kinds := map[payment.State]string{
		payment.Requested: "payment.requested", payment.Captured: "payment.captured",
		payment.Declined: "payment.declined", payment.Refunded: "payment.refunded",
	}
	for _, was := range states() {
		others := slices.DeleteFunc(states(), func(v payment.State) bool { return v == was })
		for _, to := range states() {
			p := s.begin(s.fresh())
			if was != payment.Requested {
				p = s.to(p, was)
			}
			s.emptyOutbox()
			for _, from := range [][]payment.State{nil, others, {"odd"}} {
				got, err := s.Advance(t.Context(), payment.Step{Payment: p.ID, From: from, To: to, Reason: "why", ProviderRef: "ref"})
				wantErr(t, err, payment.ErrIllegalMove)
				if got != p {
					t.Fatalf("%s→%s refused: %+v\nwant %+v", was, to, got, p)
				}
			}
			s.wantPayment(p)
			s.wantSaid()
			got, err := s.Advance(t.Context(), payment.Step{Payment: p.ID, From: []payment.State{"odd", was}, To: to, Reason: "why", ProviderRef: "ref"})
			must(t, err)
			p.State, p.Reason, p.ProviderRef, p.UpdatedAt = to, "why", "ref", got.UpdatedAt
			if e, _ := payment.Follow(got); got != p || e.Type != kinds[to] {
				t.Fatalf("%s→%s: %+v, followed by %q\nwant %+v", was, to, got, e.Type, p)
			}
			s.wantPayment(p)
			s.wantSaid(p)
			s.to(p, payment.Declined)
		}
	}
}

func (s *till) emptyOutbox() {
	s.t.Helper()
	s.Corrupt(s.t, `DELETE FROM outbox`)
}

func storeStepFields(t *testing.T, s *till) {
	p := s.begin(s.fresh())
	for _, c := range []struct{ reason, ref, keeps string }{
		{"first", "ref-1", "ref-1"}, {"second", "", "ref-1"}, {"", "ref-2", "ref-2"},
	} {
		s.Backdate(t, p.ID, time.Hour)
		was, err := s.Find(t.Context(), p.ID)
		must(t, err)
		got, err := s.Advance(t.Context(), payment.Step{Payment: p.ID, From: states(), To: payment.Declined, Reason: c.reason, ProviderRef: c.ref})
		must(t, err)
		want := was
		want.State, want.Reason, want.ProviderRef, want.UpdatedAt = payment.Declined, c.reason, c.keeps, got.UpdatedAt
		if got != want || got.UpdatedAt.Sub(was.UpdatedAt) < 59*time.Minute || got.UpdatedAt != got.UpdatedAt.UTC().Truncate(time.Microsecond) {
			t.Fatalf("%+v\nwant %+v", got, want)
		}
		s.wantPayment(want)
	}
}

func storeAtomic(t *testing.T, s *till) {
	known, fresh := s.begin(s.fresh()), s.fresh()
	s.wantSaid(known)
	s.Corrupt(t, `ALTER TABLE outbox RENAME TO away`)
	_, created, begun := s.Begin(t.Context(), fresh)
	_, moved := s.Advance(t.Context(), payment.Step{Payment: known.ID, From: states(), To: payment.Captured})
	s.Corrupt(t, `ALTER TABLE away RENAME TO outbox`)
	if begun == nil || created || moved == nil {
		t.Fatalf("without an outbox: %v, %v, %v", begun, created, moved)
	}
	_, err := s.Find(t.Context(), fresh.ID)
	wantErr(t, err, payment.ErrNotFound)
	s.wantPayment(known)
	s.wantSaid()
	fresh = s.begin(fresh)
	s.wantSaid(fresh, s.to(known, payment.Captured))
}

func storeForOrder(t *testing.T, s *till) {
	order := id.Derive("order")
	var want []payment.Payment
	for n := range 4 {
		p := s.fresh()
		p.Order = order
		p = s.begin(p)
		s.begin(s.fresh())                                    // of another order
		s.Backdate(t, p.ID, time.Duration(n%3+1)*time.Second) // the oldest are neither the first nor the lowest ids
		p = s.to(p, payment.Declined)
		want = append(want, p)
	}
	slices.SortFunc(want, func(a, b payment.Payment) int { return a.CreatedAt.Compare(b.CreatedAt) })
	got, err := s.ForOrder(t.Context(), order)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%+v, %v\nwant %+v", got, err, want)
	}
}

func storeStuck(t *testing.T, s *till) {
	at := map[payment.State][]payment.Payment{} // by state, the youngest first: two minutes, then two hours and on
	for _, state := range states() {
		for n := range 3 {
			p := s.to(s.begin(s.fresh()), state)
			s.Backdate(t, p.ID, []time.Duration{2 * time.Minute, 2 * time.Hour, 3 * time.Hour}[n])
			p, err := s.Find(t.Context(), p.ID)
			must(t, err)
			at[state] = append(at[state], p)
		}
	}
	charging, unknown := at[payment.Charging], at[payment.Unknown]
	both := []payment.State{payment.Charging, payment.Unknown}
	for _, c := range []struct {
		states []payment.State
		age    time.Duration
		limit  int
		want   []payment.Payment
	}{
		{both, time.Minute, 100, []payment.Payment{charging[2], unknown[2], charging[1], unknown[1], charging[0], unknown[0]}},
		{both, time.Hour, 100, []payment.Payment{charging[2], unknown[2], charging[1], unknown[1]}},
		{both, time.Hour, 3, []payment.Payment{charging[2], unknown[2], charging[1]}},
		{both[1:], time.Hour, 100, []payment.Payment{unknown[2], unknown[1]}},
		{both, 5 * time.Hour, 100, nil},
		{both, 0, 0, nil},
		{both, 0, -1, nil},
		{nil, 0, 100, nil},
		{[]payment.State{"odd"}, 0, 100, nil},
	} {
		got, err := s.Stuck(t.Context(), c.states, c.age, c.limit)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v for %s, at most %d: %+v, %v\nwant %+v", c.states, c.age, c.limit, got, err, c.want)
		}
	}
	for age, want := range map[time.Duration]payment.Traffic{
		time.Second: {UnderWay: 6}, // those of two minutes are stuck
		time.Minute: {UnderWay: 6, Late: 1}, 4 * time.Minute: {UnderWay: 6, Late: 2, Done: 3}, 10 * time.Minute: {UnderWay: 6, Late: 2, Done: 3},
		150 * time.Minute: {UnderWay: 6, Late: 1, Done: 6}, 5 * time.Hour: {UnderWay: 6, Done: 9},
	} {
		if got, err := s.Traffic(t.Context(), age); err != nil || got != want {
			t.Errorf("the traffic within %s is %+v, %v; want %+v", age, got, err, want)
		}
	}
	for _, ps := range at {
		for _, p := range ps {
			s.to(p, payment.Declined)
		}
	}
	if got, err := s.Traffic(t.Context(), time.Minute); err != nil || got.UnderWay != 0 || got.Late != 0 || got.Done == 0 {
		t.Errorf("when all have an outcome the traffic is %+v, %v", got, err)
	}
	if got, err := s.Stuck(t.Context(), both, 0, 100); err != nil || len(got) != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
}

// storeCrowd: everybody begins the same payments and makes the same steps; one of them is first.
func storeCrowd(t *testing.T, s *till) {
	const payments, workers = 6, 8
	fresh := make([]payment.Payment, payments)
	for i := range fresh {
		fresh[i] = s.fresh()
	}
	var begun, charging, captured atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range fresh {
				p := fresh[(i+w)%payments]
				_, created, err := s.Begin(t.Context(), p)
				if err != nil {
					t.Error(err)
					return
				}
				if created {
					begun.Add(1)
				}
				for _, step := range []struct {
					from, to payment.State
					made     *atomic.Int64
				}{{payment.Requested, payment.Charging, &charging}, {payment.Charging, payment.Captured, &captured}} {
					_, err := s.Advance(t.Context(), payment.Step{Payment: p.ID, From: []payment.State{step.from}, To: step.to})
					switch {
					case err == nil:
						step.made.Add(1)
					case !errors.Is(err, payment.ErrIllegalMove):
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if begun.Load() != payments || charging.Load() != payments || captured.Load() != payments {
		t.Fatalf("%d begun, %d charging, %d captured of %d", begun.Load(), charging.Load(), captured.Load(), payments)
	}
	if n, _, err := s.Backlog(t.Context()); err != nil || n != 2*payments {
		t.Fatalf("%d said, %v", n, err)
	}
}

func storeOutbox(t *testing.T, s *till) {
	var want []transport.Envelope
	for range 3 {
		e, _ := payment.Follow(s.begin(s.fresh()))
		want = append(want, e)
	}
	if es, err := s.Unsent(t.Context(), time.Hour, 10); err != nil || len(es) != 0 {
		t.Fatalf("an hour old: %+v, %v", es, err)
	}
	first, err := s.Unsent(t.Context(), 0, 2)
	if err != nil || !transporttest.SameAll(first, want[:2]) {
		t.Fatalf("the oldest two: %+v, %v\nwant %+v", first, err, want[:2])
	}
	rest, err := s.Unsent(t.Context(), 0, 10)
	if err != nil || !transporttest.SameAll(rest, want[2:]) {
		t.Fatalf("leased to two relays: %+v, %v", rest, err)
	}
	must(t, s.MarkSent(t.Context(), []id.ID{want[0].ID, id.Derive("unknown")}))
	s.Corrupt(t, `UPDATE outbox SET leased_until = written_at`) // the leases have ended
	if es, err := s.Unsent(t.Context(), 0, 10); err != nil || !transporttest.SameAll(es, want[1:]) {
		t.Fatalf("after the leases: %+v, %v", es, err)
	}
	if n, age, err := s.Backlog(t.Context()); err != nil || n != 2 || age <= 0 || age > time.Minute {
		t.Fatalf("backlog %d, %s, %v", n, age, err)
	}
	must(t, s.MarkSent(t.Context(), []id.ID{want[1].ID, want[2].ID}))
	if n, age, err := s.Backlog(t.Context()); err != nil || n != 0 || age != 0 {
		t.Fatalf("backlog %d, %s, %v", n, age, err)
	}
}

func storeStatement(t *testing.T, s *till) {
	var want []payment.Line
	for n, state := range states() {
		p := s.fresh()
		p.Order, p.Amount = id.Derive("order", fmt.Sprint(n%3)), euros(int64(n))
		if state == payment.Refunding { // it counts as paid: not twice for one order
			p.Order = id.Derive("another order")
		}
		s.to(s.begin(p), state)
		want = append(want, payment.Line{Payment: p.ID, Order: p.Order, State: state, Amount: p.Amount})
	}
	slices.SortFunc(want, func(a, b payment.Line) int {
		if c := slices.Compare(a.Order[:], b.Order[:]); c != 0 {
			return c
		}
		return slices.Compare(a.Payment[:], b.Payment[:])
	})
	var got []payment.Line
	must(t, s.Statement(t.Context(), func(l payment.Line) error { got = append(got, l); return nil }))
	if !slices.Equal(got, want) {
		t.Fatalf("%+v\nwant %+v", got, want)
	}
	stop, calls := errors.New("enough"), 0
	wantErr(t, s.Statement(t.Context(), func(payment.Line) error { calls++; return stop }), stop)
	if calls != 1 {
		t.Fatalf("called %d times after the error", calls-1)
	}
}

func storeAudit(t *testing.T, s *till) {
	p, q := s.fresh(), s.fresh()
	q.Order = p.Order
	p, q = s.to(s.begin(p), payment.Captured), s.to(s.begin(q), payment.Declined)
	s.to(s.begin(s.fresh()), payment.Captured)
	s.wantAudit()
	for _, state := range []payment.State{payment.Captured, payment.Refunding} {
		s.to(q, state)
		s.wantAudit(audit.Check{Equation: 6, Figures: "orders paid 2, paid twice 1"})
	}
	s.to(q, payment.Refunded) // given back: it is paid once
	s.wantAudit()
	s.to(p, payment.Refunded)
	for _, state := range states() {
		late, soon := s.to(s.begin(s.fresh()), state), s.to(s.begin(s.fresh()), state)
		s.Backdate(t, late.ID, payment.ProbeBound+time.Minute)
		s.Backdate(t, soon.ID, payment.ProbeBound-time.Minute)
		switch state {
		case payment.Requested, payment.Charging, payment.Unknown, payment.Refunding:
			s.wantAudit(audit.Check{Equation: 7, Figures: "under way 2, overdue 1"})
		default:
			s.wantAudit()
		}
		s.to(late, payment.Declined)
		s.to(soon, payment.Declined)
	}
}

func storeNothing(t *testing.T, s *till) {
	s.wantAudit()
	_, err := s.Find(t.Context(), id.Derive("none"))
	wantErr(t, err, payment.ErrNotFound)
	_, err = s.Advance(t.Context(), payment.Step{Payment: id.Derive("none"), From: states(), To: payment.Captured})
	wantErr(t, err, payment.ErrNotFound)
	_, err = s.Store.Charge(t.Context(), id.Derive("none"))
	wantErr(t, err, payment.ErrNoCharge)
	s.wantCharges()
	s.wantSaid()
	must(t, s.Statement(t.Context(), func(l payment.Line) error { return fmt.Errorf("%+v", l) }))
	if ps, err := s.ForOrder(t.Context(), id.Derive("none")); err != nil || len(ps) != 0 {
		t.Errorf("%+v, %v", ps, err)
	}
	if ps, err := s.Stuck(t.Context(), states(), 0, 5); err != nil || len(ps) != 0 {
		t.Errorf("%+v, %v", ps, err)
	}
	if n, age, err := s.Backlog(t.Context()); err != nil || n != 0 || age != 0 {
		t.Errorf("backlog %d, %s, %v", n, age, err)
	}
}

func storeValues(t *testing.T, s *till) {
	for _, amount := range []money.Money{euros(0), euros(1), euros(1<<53 + 1), euros(1<<63 - 1), {Amount: 1200, Currency: "JPY"}} {
		p, c := s.fresh(), s.charge()
		p.Amount, p.Method, p.TraceParent, p.Fingerprint = amount, "tok'\"\\ ü€", "", [32]byte{0: 0, 31: 255}
		c.Amount, c.Reason = amount, "nö"
		p = s.begin(p)
		s.wantPayment(p)
		s.wantSaid(p)
		if got, err := s.PutCharge(t.Context(), c); err != nil || got != c || p.Amount != amount {
			t.Fatalf("%+v, %+v, %v", p, got, err)
		}
	}
}

func storeDecided(t *testing.T, s *till) {
	at := map[payment.State]payment.Payment{}
	for n, state := range states() {
		p := s.to(s.begin(s.fresh()), state)
		s.Backdate(t, p.ID, time.Duration(10-n)*time.Hour)
		p, err := s.Find(t.Context(), p.ID)
		must(t, err)
		at[state] = p
	}
	captured, declined, refunded := at[payment.Captured], at[payment.Declined], at[payment.Refunded] // 7, 6 and 3 hours old
	for _, c := range []struct {
		after time.Time
		age   time.Duration
		limit int
		want  []payment.Payment
	}{
		{time.UnixMicro(0), 0, 100, []payment.Payment{captured, declined, refunded}},
		{time.UnixMicro(0), 0, 2, []payment.Payment{captured, declined}},
		{time.UnixMicro(0), 5 * time.Hour, 100, []payment.Payment{captured, declined}},
		{captured.UpdatedAt, 0, 100, []payment.Payment{declined, refunded}},
		{captured.UpdatedAt.Add(-time.Microsecond), 0, 1, []payment.Payment{captured}},
		{refunded.UpdatedAt, 0, 100, nil},
		{captured.UpdatedAt, 5 * time.Hour, 100, []payment.Payment{declined}},
		{refunded.UpdatedAt, 4 * time.Hour, 100, []payment.Payment{captured, declined}}, // noted by a clock that was ahead
		{refunded.UpdatedAt.Add(24 * time.Hour), 2 * time.Hour, 100, []payment.Payment{refunded}},
		{time.UnixMicro(0), 0, 0, nil},
	} {
		got, err := s.Decided(t.Context(), c.after, c.age, c.limit)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("after %s for %s, at most %d: %+v, %v\nwant %+v", c.after, c.age, c.limit, got, err, c.want)
		}
	}
	for _, p := range at { // the audit wants an end of everything
		s.to(p, payment.Declined)
	}
}
