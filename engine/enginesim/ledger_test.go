package enginesim

import (
	"cmp"
	"context"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/reservation"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ledger is the model of the stock ledger: one lock, so that every call is one transaction.
type ledger struct {
	outbox
	mu     sync.Mutex
	checks bool // the CHECKs of the bucket rows: without them a gate that promises too much oversells

	sales        map[id.ID]*inventory.Sale // the terms; the items have no buckets here
	ended        map[id.ID]time.Time
	buckets      map[inventory.BucketID]*inventory.Bucket
	order        []inventory.BucketID // of the buckets, sorted
	reservations map[id.ID]*reservation.Reservation
	legs         map[id.ID]leg // by take
	drawn        map[id.ID][]leg
	credits      map[inventory.BucketID][]inventory.Credit
	journal      []entry
	allowance    map[shopper]int
	additions    map[id.ID]bool
}

// leg is what the ledger has recorded for a take.
type leg struct {
	bucket  inventory.BucketID
	qty     int
	outcome inventory.LegOutcome
}

type entry struct {
	bucket              inventory.BucketID
	kind                string
	granted, held, sold int64
	cause               id.ID // a reservation, or none
	at                  time.Time
}

// shopper is one user and a sale item.
type shopper struct {
	item inventory.ItemID
	user id.ID
}

func newLedger(clock func() time.Time, checks bool) *ledger {
	l := &ledger{
		checks: checks,
		sales:  map[id.ID]*inventory.Sale{}, ended: map[id.ID]time.Time{}, buckets: map[inventory.BucketID]*inventory.Bucket{},
		reservations: map[id.ID]*reservation.Reservation{}, legs: map[id.ID]leg{}, drawn: map[id.ID][]leg{},
		credits: map[inventory.BucketID][]inventory.Credit{}, allowance: map[shopper]int{}, additions: map[id.ID]bool{},
	}
	l.outbox = outbox{mu: &l.mu, clock: clock}
	return l
}

func (l *ledger) now() time.Time { return micros(l.clock()) }

// Commit implements inventory.Ledger.
func (l *ledger) Commit(_ context.Context, claims []inventory.Claim) ([]inventory.Decision, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]inventory.Decision, len(claims))
	for i, c := range claims {
		out[i] = l.decide(c)
		for _, g := range c.Legs {
			out[i].Outcomes = append(out[i].Outcomes, l.tombstone(g.Take, g.Bucket, g.Qty))
		}
	}
	return out, nil
}

func (l *ledger) decide(c inventory.Claim) inventory.Decision {
	row := l.reservations[c.Request.ID()]
	switch {
	case row == nil:
		return l.admit(c)
	case row.Fingerprint != c.Request.Fingerprint():
		return inventory.Decision{Err: reservation.ErrKeyReused}
	case row.State == reservation.Refused:
		return inventory.Decision{Reservation: *row, Err: reservation.Refusal(row.Reason)}
	}
	return inventory.Decision{Reservation: *row, Replayed: true, Event: inventory.Held(*row, c.TraceParent)}
}

// tombstone records a take as aborted unless it has an outcome, and returns the outcome.
func (l *ledger) tombstone(take id.ID, b inventory.BucketID, qty int) inventory.LegOutcome {
	if _, known := l.legs[take]; !known {
		l.legs[take] = leg{b, qty, inventory.Aborted}
	}
	return l.legs[take].outcome
}

func (l *ledger) admit(c inventory.Claim) inventory.Decision {
	refused := func(err error) inventory.Decision { return inventory.Decision{Err: err} }
	req, now := c.Request, l.now()
	price, listed := l.price(req.Sale, req.SKU)
	if !listed {
		return refused(reservation.ErrUnknownItem)
	}
	sale := l.sales[req.Sale]
	who := shopper{inventory.ItemID{Sale: req.Sale, SKU: req.SKU}, req.User}
	switch {
	case !sale.OpenAt(now):
		return refused(reservation.ErrSaleNotOpen)
	case sale.Limit > 0 && l.allowance[who]+req.Quantity > sale.Limit:
		return refused(reservation.ErrLimitReached)
	}
	need := map[inventory.BucketID]int64{}
	for _, g := range c.Legs {
		need[g.Bucket] += int64(g.Qty)
		b := l.buckets[g.Bucket]
		_, known := l.legs[g.Take]
		switch {
		case known:
			return refused(inventory.ErrTakeAborted)
		case b == nil:
			return refused(reservation.ErrUnknownItem)
		case b.Epoch != g.Epoch:
			return refused(inventory.ErrFenced)
		case l.checks && b.Available() < need[g.Bucket]:
			return refused(inventory.ErrNoUnits)
		}
	}
	r := reservation.Reservation{
		ID: req.ID(), User: req.User, Sale: req.Sale, SKU: req.SKU, Quantity: req.Quantity, UnitPrice: price, State: reservation.Held,
		Cart: req.Cart, Fingerprint: req.Fingerprint(), CreatedAt: now, ExpiresAt: now.Add(sale.HoldFor),
	}
	l.reservations[r.ID] = &r
	for _, g := range c.Legs {
		l.legs[g.Take] = leg{g.Bucket, g.Qty, inventory.Committed}
		l.drawn[r.ID] = append(l.drawn[r.ID], l.legs[g.Take])
		l.post(g.Bucket, "hold", 0, int64(g.Qty), 0, r.ID)
	}
	l.allowance[who] += r.Quantity
	e := inventory.Held(r, c.TraceParent)
	l.enqueue(e)
	return inventory.Decision{Reservation: r, Event: e}
}

func (l *ledger) price(sale id.ID, sku string) (money.Money, bool) {
	if s := l.sales[sale]; s != nil {
		for _, i := range s.Items {
			if i.SKU == sku {
				return i.UnitPrice, true
			}
		}
	}
	return money.Money{}, false
}

// Steps implements inventory.History: an entry's number is its place in the journal.
func (l *ledger) Steps(_ context.Context, after int64, age time.Duration, limit int) ([]inventory.Step, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var steps []inventory.Step
	for n := after; n < int64(len(l.journal)) && len(steps) < limit; n++ {
		e := l.journal[n]
		if e.at.After(micros(l.clock()).Add(-age)) {
			break
		}
		steps = append(steps, inventory.Step{N: n + 1, Reservation: e.cause, State: inventory.Stepped(e.kind)})
	}
	return steps, nil
}

// Rows implements inventory.History.
func (l *ledger) Rows(_ context.Context, ids []id.ID) ([]reservation.Reservation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rows []reservation.Reservation
	for _, v := range ids {
		if r := l.reservations[v]; r != nil {
			rows = append(rows, *r)
		}
	}
	// The ids come from a map: a seed is the same run every time.
	slices.SortFunc(rows, func(a, b reservation.Reservation) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return rows, nil
}

// post changes a bucket row and writes the same change to the journal.
func (l *ledger) post(b inventory.BucketID, kind string, granted, held, sold int64, cause id.ID) {
	row := l.buckets[b]
	row.Granted += granted
	row.Held += held
	row.Sold += sold
	l.journal = append(l.journal, entry{b, kind, granted, held, sold, cause, micros(l.clock())})
}

// credit appends a return of units with the bucket's next number.
func (l *ledger) credit(b inventory.BucketID, qty int64, user id.ID) {
	row := l.buckets[b]
	row.CreditSeq++
	l.credits[b] = append(l.credits[b], inventory.Credit{Bucket: b, Seq: row.CreditSeq, Qty: qty, User: user})
}

// Move implements inventory.Ledger.
func (l *ledger) Move(_ context.Context, moves []inventory.Move) ([]inventory.Moved, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]inventory.Moved, len(moves))
	for i, m := range moves {
		a := l.move(m)
		if e, ok := inventory.FollowMove(m, a, l.now()); ok {
			a.Event = e
			if a.Applied || a.Err != nil {
				l.enqueue(e)
			}
		}
		out[i] = a
	}
	return out, nil
}

func (l *ledger) move(m inventory.Move) inventory.Moved {
	row := l.reservations[m.Reservation]
	if row == nil || !m.User.IsZero() && row.User != m.User {
		return inventory.Moved{Err: reservation.ErrNotFound}
	}
	if verdict, made := m.Judge(*row, l.now()); verdict != nil || made {
		return inventory.Moved{Reservation: *row, Err: verdict}
	}
	*row = m.Apply(*row)
	a := inventory.Moved{Reservation: *row, Applied: true}
	if m.Kind == reservation.MovePay {
		return a
	}
	held, sold, back := m.Deltas()
	for _, p := range l.parts(row.ID) {
		l.post(p.bucket, string(m.Kind), 0, held*int64(p.qty), sold*int64(p.qty), row.ID)
		if back {
			l.credit(p.bucket, int64(p.qty), row.User)
			a.Credited = append(a.Credited, p.bucket)
		}
	}
	if back {
		l.allowance[shopper{inventory.ItemID{Sale: row.Sale, SKU: row.SKU}, row.User}] -= row.Quantity
	}
	return a
}

// parts returns what a reservation drew, one part a bucket, in order.
func (l *ledger) parts(r id.ID) []leg {
	var out []leg
	for _, g := range l.drawn[r] {
		if i := slices.IndexFunc(out, func(p leg) bool { return p.bucket == g.bucket }); i >= 0 {
			out[i].qty += g.qty
		} else {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b leg) int { return a.bucket.Compare(b.bucket) })
	return out
}

// Refuse implements inventory.Ledger.
func (l *ledger) Refuse(_ context.Context, refusals []inventory.Refusal) ([]reservation.Reservation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []reservation.Reservation
	for _, f := range refusals {
		req := f.Request
		if l.reservations[req.ID()] == nil {
			l.reservations[req.ID()] = &reservation.Reservation{
				ID: req.ID(), User: req.User, Sale: req.Sale, SKU: req.SKU, Quantity: req.Quantity, State: reservation.Refused,
				Reason: f.Reason, Cart: req.Cart, Fingerprint: req.Fingerprint(), CreatedAt: l.now(), ExpiresAt: l.now(),
			}
		}
		out = append(out, *l.reservations[req.ID()])
	}
	return out, nil
}

// Find implements inventory.Ledger.
func (l *ledger) Find(_ context.Context, r id.ID) (reservation.Reservation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if row := l.reservations[r]; row != nil {
		return *row, nil
	}
	return reservation.Reservation{}, reservation.ErrNotFound
}

// Bound implements inventory.Ledger.
func (l *ledger) Bound(_ context.Context, item inventory.ItemID, user id.ID) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.allowance[shopper{item, user}], nil
}

// Due implements inventory.Ledger.
func (l *ledger) Due(_ context.Context, limit int) ([]id.ID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var due []*reservation.Reservation
	for _, r := range l.reservations {
		if r.State == reservation.Held && !l.now().Before(r.ExpiresAt) {
			due = append(due, r)
		}
	}
	slices.SortFunc(due, func(a, b *reservation.Reservation) int {
		return cmp.Or(a.ExpiresAt.Compare(b.ExpiresAt), slices.Compare(a.ID[:], b.ID[:]))
	})
	var out []id.ID
	for _, r := range due[:min(limit, len(due))] {
		out = append(out, r.ID)
	}
	return out, nil
}

// Provision implements inventory.Sales.
func (l *ledger) Provision(_ context.Context, p inventory.Provision) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sales[p.Sale.ID] != nil {
		return nil
	}
	s := p.Sale
	s.OpensAt, s.EndsAt = micros(s.OpensAt), micros(s.EndsAt)
	s.Items = slices.Clone(s.Items)
	slices.SortFunc(s.Items, func(a, b inventory.Item) int { return cmp.Compare(a.SKU, b.SKU) })
	l.sales[s.ID] = &s
	for _, i := range s.Items {
		for shard, units := range inventory.Split(i.Total, p.Shards) {
			b := inventory.BucketID{Item: inventory.ItemID{Sale: s.ID, SKU: i.SKU}, Shard: shard}
			l.buckets[b] = &inventory.Bucket{ID: b, Epoch: 1}
			l.order = append(l.order, b)
			l.post(b, "grant", units, 0, 0, id.ID{})
		}
	}
	slices.SortFunc(l.order, inventory.BucketID.Compare)
	return nil
}

// SetStatus implements inventory.Sales.
func (l *ledger) SetStatus(_ context.Context, s inventory.Sale) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := l.sales[s.ID]
	if row == nil {
		return inventory.ErrUnknownSale
	}
	if s.Revision > row.Revision {
		row.Status, row.OpensAt, row.EndsAt, row.Revision = s.Status, micros(s.OpensAt), micros(s.EndsAt), s.Revision
		delete(l.ended, s.ID)
		if s.Status == inventory.Ended {
			l.ended[s.ID] = l.now()
		}
	}
	return nil
}

// AddStock implements inventory.Sales.
func (l *ledger) AddStock(_ context.Context, a inventory.Addition) ([]inventory.BucketID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	shards := slices.DeleteFunc(slices.Clone(l.order), func(b inventory.BucketID) bool { return b.Item != a.Item })
	if len(shards) == 0 {
		return nil, inventory.ErrUnknownSale
	}
	if l.additions[a.ID] {
		return nil, nil
	}
	l.additions[a.ID] = true
	for i := range l.sales[a.Item.Sale].Items {
		if item := &l.sales[a.Item.Sale].Items[i]; item.SKU == a.Item.SKU {
			item.Total += a.Qty
		}
	}
	var credited []inventory.BucketID
	for i, units := range inventory.Split(a.Qty, len(shards)) {
		if units == 0 {
			continue
		}
		l.post(shards[i], "grant", units, 0, 0, id.ID{})
		l.credit(shards[i], units, id.ID{})
		credited = append(credited, shards[i])
	}
	return credited, nil
}

// Sale implements inventory.Sales.
func (l *ledger) Sale(_ context.Context, sale id.ID) (inventory.Sale, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := l.sales[sale]
	if row == nil {
		return inventory.Sale{}, inventory.ErrUnknownSale
	}
	s := *row
	s.Items = slices.Clone(s.Items)
	for i := range s.Items {
		for _, b := range l.order {
			if b.Item == (inventory.ItemID{Sale: sale, SKU: s.Items[i].SKU}) {
				s.Items[i].Buckets = append(s.Items[i].Buckets, *l.buckets[b])
			}
		}
	}
	return s, nil
}

// Buckets implements inventory.Books.
func (l *ledger) Buckets(_ context.Context, of []inventory.ItemID) ([]inventory.Bucket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []inventory.Bucket
	for _, b := range l.order {
		at, over := l.ended[b.Item.Sale]
		if of == nil && (!over || l.now().Sub(at) < 24*time.Hour) || slices.Contains(of, b.Item) {
			out = append(out, *l.buckets[b])
		}
	}
	return out, nil
}

// Reopen implements inventory.Books.
func (l *ledger) Reopen(_ context.Context, b inventory.BucketID, from int64) (inventory.Bucket, map[id.ID]int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := l.buckets[b]
	if row == nil || row.Epoch != from {
		return inventory.Bucket{}, nil, inventory.ErrFenced
	}
	row.Epoch++
	users := map[id.ID]int{}
	for r, legs := range l.drawn {
		for _, g := range legs {
			if v := l.reservations[r]; g.bucket == b && v.State.Active() {
				users[v.User] += g.qty
			}
		}
	}
	return *row, users, nil
}

// Credits implements inventory.Books.
func (l *ledger) Credits(_ context.Context, b inventory.BucketID, after int64, limit int) ([]inventory.Credit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.credits[b]
	from := min(max(after, 0), int64(len(all)))
	return slices.Clone(all[from:min(int64(len(all)), from+int64(limit))]), nil
}

// Tombstone implements inventory.Books.
func (l *ledger) Tombstone(_ context.Context, takes []inventory.Pending) ([]inventory.LegOutcome, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]inventory.LegOutcome, len(takes))
	for i, t := range takes {
		out[i] = l.tombstone(t.ID, t.Bucket, t.Qty)
	}
	return out, nil
}

// regrant moves granted units from one bucket to another, with the receiver's credit.
func (l *ledger) regrant(from, to inventory.BucketID, qty int64) {
	l.post(from, "transfer", -qty, 0, 0, id.ID{})
	l.post(to, "transfer", qty, 0, 0, id.ID{})
	l.credit(to, qty, id.ID{})
}

// Transfer implements inventory.Balance.
func (l *ledger) Transfer(_ context.Context, t inventory.Transfer) (inventory.LegOutcome, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.legs[t.Leg.Take]; ok {
		return known.outcome, nil
	}
	to := inventory.BucketID{Item: t.Leg.Bucket.Item, Shard: t.To}
	donor, receiver := l.buckets[t.Leg.Bucket], l.buckets[to]
	if donor == nil || receiver == nil || donor == receiver || donor.Epoch != t.Leg.Epoch ||
		l.checks && donor.Available() < int64(t.Leg.Qty) {
		return l.tombstone(t.Leg.Take, t.Leg.Bucket, t.Leg.Qty), nil
	}
	l.legs[t.Leg.Take] = leg{t.Leg.Bucket, t.Leg.Qty, inventory.Committed}
	l.regrant(donor.ID, to, int64(t.Leg.Qty))
	return inventory.Committed, nil
}

// Evacuate implements inventory.Balance.
func (l *ledger) Evacuate(_ context.Context, from inventory.BucketID, to []int) ([]inventory.BucketID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := l.buckets[from]
	if row == nil {
		return nil, inventory.ErrUnknownSale
	}
	row.Epoch++
	var heirs, credited []inventory.BucketID
	for _, shard := range to {
		b := inventory.BucketID{Item: from.Item, Shard: shard}
		if l.buckets[b] != nil && b != from {
			heirs = append(heirs, b)
		}
	}
	if len(heirs) == 0 {
		return nil, nil
	}
	for i, qty := range inventory.Split(row.Available(), len(heirs)) {
		if qty > 0 {
			l.regrant(from, heirs[i], qty)
			credited = append(credited, heirs[i])
		}
	}
	return credited, nil
}

// Spread implements inventory.Balance.
func (l *ledger) Spread(_ context.Context, shards int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sales {
		for _, i := range s.Items {
			for shard := range shards {
				b := inventory.BucketID{Item: inventory.ItemID{Sale: s.ID, SKU: i.SKU}, Shard: shard}
				if l.buckets[b] == nil {
					l.buckets[b] = &inventory.Bucket{ID: b, Epoch: 1}
					l.order = append(l.order, b)
				}
			}
		}
	}
	slices.SortFunc(l.order, inventory.BucketID.Compare)
	return nil
}

// Statement implements inventory.Auditor.
func (l *ledger) Statement(_ context.Context, line func(inventory.Line) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.sorted() {
		total, err := r.Total()
		if err != nil {
			return err
		}
		err = line(inventory.Line{Reservation: r.ID, User: r.User, State: r.State, Quantity: r.Quantity, Total: total, Payment: r.Payment})
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *ledger) sorted() []reservation.Reservation {
	out := make([]reservation.Reservation, 0, len(l.reservations))
	for _, r := range l.reservations {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b reservation.Reservation) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return out
}

// Audit implements inventory.Auditor: the equations of inventory.AuditSQL, under the same names.
func (l *ledger) Audit(context.Context) ([]audit.Check, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rows, totals, units, parts, replayed, credits, states, limits, allowed, late int
	legs, booked := map[inventory.BucketID]inventory.Bucket{}, map[inventory.BucketID]inventory.Bucket{}
	bound := map[shopper]int{}
	for _, r := range l.reservations {
		sum := 0
		for _, g := range l.drawn[r.ID] {
			sum += g.qty
			b := legs[g.bucket]
			switch r.State {
			case reservation.Held, reservation.Paying:
				b.Held += int64(g.qty)
			case reservation.Paid:
				b.Sold += int64(g.qty)
			}
			legs[g.bucket] = b
		}
		switch {
		case r.State == reservation.Refused && sum > 0, !r.State.Active() && !r.State.Terminal():
			states++
		case r.State != reservation.Refused && sum != r.Quantity:
			parts++
		}
		if r.State.Active() {
			bound[shopper{inventory.ItemID{Sale: r.Sale, SKU: r.SKU}, r.User}] += r.Quantity
		}
		if r.State == reservation.Held && r.ExpiresAt.Before(l.now().Add(-inventory.ExpiryBound)) {
			late++
		}
	}
	for _, e := range l.journal {
		b := booked[e.bucket]
		b.Granted, b.Held, b.Sold = b.Granted+e.granted, b.Held+e.held, b.Sold+e.sold
		booked[e.bucket] = b
	}
	granted := map[inventory.ItemID]int64{}
	for _, b := range l.buckets {
		granted[b.ID.Item] += b.Granted
		if b.Held < 0 || b.Sold < 0 || b.Held+b.Sold > b.Granted {
			rows++
		}
		if legs[b.ID].Held != b.Held || legs[b.ID].Sold != b.Sold {
			units++
		}
		if j := booked[b.ID]; j.Granted != b.Granted || j.Held != b.Held || j.Sold != b.Sold {
			replayed++
		}
		for i, c := range l.credits[b.ID] {
			if c.Seq != int64(i+1) {
				credits++
			}
		}
		if int64(len(l.credits[b.ID])) != b.CreditSeq {
			credits++
		}
	}
	for _, s := range l.sales {
		for _, i := range s.Items {
			if granted[inventory.ItemID{Sale: s.ID, SKU: i.SKU}] != i.Total {
				totals++
			}
		}
	}
	for who, n := range bound {
		if limit := l.sales[who.item.Sale].Limit; limit > 0 && n > limit {
			limits++
		}
	}
	for who, n := range l.allowance {
		if n != bound[who] {
			allowed++
		}
	}
	var checks []audit.Check
	for _, c := range []struct {
		equation int
		name     string
		wrong    int
	}{
		{1, "held, sold ≥ 0 and held+sold ≤ granted", rows},
		{1, "Σ granted = total", totals},
		{2, "held = Σ legs held or paying; sold = Σ legs paid", units},
		{2, "Σ legs of a reservation = its quantity", parts},
		{3, "the journal replayed gives the bucket rows", replayed},
		{3, "credits are numbered without a gap", credits},
		{4, "one state of the state machine per reservation; legs only where units were admitted", states},
		{5, "per shopper, bound units ≤ limit", limits},
		{5, "allowances = Σ bound units", allowed},
		{7, "nothing held past its expiry for long", late},
	} {
		checks = append(checks, audit.Check{Equation: c.equation, Name: c.name, Figures: fmt.Sprintf("wrong %d", c.wrong), OK: c.wrong == 0})
	}
	return checks, nil
}
