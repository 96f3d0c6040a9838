package inventorytest

import (
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"maps"
	"slices"
	"time"
)

// ledgerModel says what a ledger of one sale does, one claim and one move after the other, with a
// map where the ledger has a table. Its clock stands still between steps; times count from the
// sequence's begin. Reservations have no times in it: row.made has.
type ledgerModel struct {
	now         time.Duration
	sale        inventory.Sale // without the times and the items
	opens, ends time.Duration
	totals      map[string]int64
	buckets     map[inventory.BucketID]inventory.Bucket
	rows        map[id.ID]row
	takes       map[id.ID]inventory.LegOutcome
	credits     map[inventory.BucketID][]inventory.Credit
	additions   map[id.ID]bool
	said        map[announcement]bool // the outbox
}

// row is a reservation with when it was made and the legs that carry it.
type row struct {
	reservation.Reservation
	made time.Duration
	legs []inventory.Leg
}

// announcement tells events apart: those about one reservation by their kind, and those about a
// refused payment by the payment too.
type announcement struct {
	kind    string
	subject id.ID
	payment id.ID
}

func newLedgerModel(sale inventory.Sale, opens, ends time.Duration, stock map[string]int64, shards int) *ledgerModel {
	m := &ledgerModel{
		sale: sale, opens: opens, ends: ends, totals: stock, buckets: map[inventory.BucketID]inventory.Bucket{}, rows: map[id.ID]row{},
		takes: map[id.ID]inventory.LegOutcome{}, credits: map[inventory.BucketID][]inventory.Credit{}, additions: map[id.ID]bool{},
		said: map[announcement]bool{},
	}
	for sku, total := range stock {
		for shard, units := range inventory.Split(total, shards) {
			b := inventory.BucketID{Item: inventory.ItemID{Sale: sale.ID, SKU: sku}, Shard: shard}
			m.buckets[b] = inventory.Bucket{ID: b, Epoch: 1, Granted: units}
		}
	}
	return m
}

// clone is for the linearizability checker, which tries orders.
func (m *ledgerModel) clone() *ledgerModel {
	c := *m
	c.totals, c.buckets, c.rows, c.takes = maps.Clone(m.totals), maps.Clone(m.buckets), maps.Clone(m.rows), maps.Clone(m.takes)
	c.additions, c.said, c.credits = maps.Clone(m.additions), maps.Clone(m.said), maps.Clone(m.credits)
	for b := range c.credits {
		c.credits[b] = slices.Clone(c.credits[b])
	}
	return &c
}

// itemBuckets returns the buckets of an item, by shard.
func (m *ledgerModel) itemBuckets(sku string) []inventory.Bucket {
	var of []inventory.Bucket
	for _, b := range m.buckets {
		if b.ID.Item.SKU == sku {
			of = append(of, b)
		}
	}
	slices.SortFunc(of, func(a, b inventory.Bucket) int { return a.ID.Compare(b.ID) })
	return of
}

// bound is how many units of an item a shopper has.
func (m *ledgerModel) bound(sku string, user id.ID) int {
	n := 0
	for _, r := range m.rows {
		if r.SKU == sku && r.User == user && r.State.Active() {
			n += r.Quantity
		}
	}
	return n
}

// due returns the holds that are over.
func (m *ledgerModel) due() map[id.ID]bool {
	due := map[id.ID]bool{}
	for rid, r := range m.rows {
		if r.State == reservation.Held && m.over(r) {
			due[rid] = true
		}
	}
	return due
}

func (m *ledgerModel) over(r row) bool { return m.now >= r.made+m.sale.HoldFor }

func (m *ledgerModel) say(kind string, subject, payment id.ID) {
	m.said[announcement{kind, subject, payment}] = true
}

func (m *ledgerModel) commit(claims []inventory.Claim) []inventory.Decision {
	ds := make([]inventory.Decision, len(claims))
	for i, c := range claims {
		ds[i] = m.decide(c)
		// A take that this claim did not get committed never will be.
		for _, g := range c.Legs {
			if m.takes[g.Take] == "" {
				m.takes[g.Take] = inventory.Aborted
			}
			ds[i].Outcomes = append(ds[i].Outcomes, m.takes[g.Take])
		}
	}
	return ds
}

func (m *ledgerModel) decide(c inventory.Claim) inventory.Decision {
	if r, ok := m.rows[c.Request.ID()]; ok {
		switch {
		case r.Sale != c.Request.Sale || r.SKU != c.Request.SKU || r.Quantity != c.Request.Quantity || r.Cart != c.Request.Cart:
			return inventory.Decision{Err: reservation.ErrKeyReused}
		case r.State == reservation.Refused:
			return inventory.Decision{Reservation: r.Reservation, Err: reservation.Refusal(r.Reason)}
		}
		return inventory.Decision{Reservation: r.Reservation, Replayed: true, Event: transport.Envelope{Type: inventory.EventHeld}}
	}
	if err := m.admit(c); err != nil {
		return inventory.Decision{Err: err}
	}
	r := reservation.Reservation{
		ID: c.Request.ID(), User: c.Request.User, Sale: c.Request.Sale, SKU: c.Request.SKU, Quantity: c.Request.Quantity, UnitPrice: price(),
		State: reservation.Held, Cart: c.Request.Cart, Fingerprint: c.Request.Fingerprint(),
	}
	m.rows[r.ID] = row{Reservation: r, made: m.now, legs: c.Legs}
	for _, g := range c.Legs {
		m.takes[g.Take] = inventory.Committed
		m.post(g.Bucket, 0, int64(g.Qty), 0)
	}
	m.say(inventory.EventHeld, r.ID, id.ID{})
	return inventory.Decision{Reservation: r, Event: transport.Envelope{Type: inventory.EventHeld}}
}

// admit says why a claim that is new cannot be held, or nil.
func (m *ledgerModel) admit(c inventory.Claim) error {
	if _, listed := m.totals[c.Request.SKU]; !listed || c.Request.Sale != m.sale.ID {
		return reservation.ErrUnknownItem
	}
	if m.sale.Status != inventory.Open || m.now < m.opens || m.now >= m.ends {
		return reservation.ErrSaleNotOpen
	}
	if m.sale.Limit > 0 && m.bound(c.Request.SKU, c.Request.User)+c.Request.Quantity > m.sale.Limit {
		return reservation.ErrLimitReached
	}
	for _, g := range c.Legs { // each from a bucket of its own
		b, there := m.buckets[g.Bucket]
		switch {
		case m.takes[g.Take] != "":
			return inventory.ErrTakeAborted
		case !there:
			return reservation.ErrUnknownItem
		case b.Epoch != g.Epoch:
			return inventory.ErrFenced
		case b.Available() < int64(g.Qty):
			return inventory.ErrNoUnits
		}
	}
	return nil
}

func (m *ledgerModel) post(id inventory.BucketID, granted, held, sold int64) {
	b := m.buckets[id]
	b.Granted, b.Held, b.Sold = b.Granted+granted, b.Held+held, b.Sold+sold
	m.buckets[id] = b
}

func (m *ledgerModel) credit(id inventory.BucketID, qty int64, user id.ID) {
	b := m.buckets[id]
	b.CreditSeq++
	m.buckets[id] = b
	m.credits[id] = append(m.credits[id], inventory.Credit{Bucket: id, Seq: b.CreditSeq, Qty: qty, User: user})
}

func (m *ledgerModel) move(v inventory.Move) inventory.Moved {
	r, ok := m.rows[v.Reservation]
	if !ok || !v.User.IsZero() && r.User != v.User {
		return inventory.Moved{Err: reservation.ErrNotFound}
	}
	a := inventory.Moved{}
	to, made, err := m.judge(v, r)
	if err == nil && !made {
		a.Applied = true
		switch r.State = to; to {
		case reservation.Paying:
			r.Payment = v.Payment
		case reservation.Paid:
			for _, g := range r.legs {
				m.post(g.Bucket, 0, -int64(g.Qty), int64(g.Qty))
			}
		default: // a release, out of the hold or, a refund, out of what was sold
			if r.Reason = v.Reason; r.Reason == "" {
				r.Reason = string(to)
			}
			for _, g := range r.legs {
				if to == reservation.Refunded {
					m.post(g.Bucket, 0, 0, -int64(g.Qty))
				} else {
					m.post(g.Bucket, 0, -int64(g.Qty), 0)
				}
				m.credit(g.Bucket, int64(g.Qty), r.User)
				a.Credited = append(a.Credited, g.Bucket)
			}
		}
		m.rows[v.Reservation] = r
	}
	a.Reservation, a.Err = r.Reservation, err
	a.Event.Type = follows(v.Kind, err)
	if a.Applied || err != nil && a.Event.Type != "" {
		payment := id.ID{}
		if err != nil {
			payment = v.Payment
		}
		m.say(a.Event.Type, r.ID, payment)
	}
	return a
}

// judge says where a move leads, or that the same cause has made it before, or why it cannot be made.
func (m *ledgerModel) judge(v inventory.Move, r row) (to reservation.State, made bool, _ error) {
	same := r.Payment == v.Payment
	switch s := r.State; v.Kind {
	case reservation.MovePay:
		switch {
		case same: // begun, whatever it came to
			return "", true, nil
		case s == reservation.Expired, s == reservation.Held && m.over(r):
			return "", false, reservation.ErrExpired
		case s == reservation.Held:
			return reservation.Paying, false, nil
		}
	case reservation.MoveCapture:
		switch {
		case same && (s == reservation.Paid || s == reservation.Refunded):
			return "", true, nil
		case same && s == reservation.Paying:
			return reservation.Paid, false, nil
		}
	case reservation.MoveDecline:
		switch {
		case same && s == reservation.Declined:
			return "", true, nil
		case same && s == reservation.Paying:
			return reservation.Declined, false, nil
		}
	case reservation.MoveRefund:
		switch {
		case same && s == reservation.Refunded:
			return "", true, nil
		case same && s == reservation.Paid:
			return reservation.Refunded, false, nil
		}
	case reservation.MoveCancel:
		switch s {
		case reservation.Cancelled:
			return "", true, nil
		case reservation.Held: // over or not: nobody has taken the units yet
			return reservation.Cancelled, false, nil
		case reservation.Expired:
			return "", false, reservation.ErrExpired
		}
	case reservation.MoveExpire:
		switch {
		case s == reservation.Expired:
			return "", true, nil
		case s == reservation.Held && m.over(r):
			return reservation.Expired, false, nil
		}
	}
	return "", false, reservation.ErrIllegalMove
}

// follows is the event after a move: the next step, or for money that meets no hold, the way back.
func follows(kind reservation.MoveKind, err error) string {
	switch {
	case err == nil && kind == reservation.MovePay:
		return inventory.EventPaying
	case err == nil && kind == reservation.MoveCapture:
		return inventory.EventPaid
	case err == nil:
		return inventory.EventReleased
	case kind == reservation.MovePay:
		return inventory.EventPaymentRefused
	case kind == reservation.MoveCapture:
		return inventory.EventLatePayment
	}
	return ""
}

func (m *ledgerModel) refuse(f inventory.Refusal) reservation.Reservation {
	rid := f.Request.ID()
	if _, ok := m.rows[rid]; !ok {
		m.rows[rid] = row{made: m.now, Reservation: reservation.Reservation{
			ID: rid, User: f.Request.User, Sale: f.Request.Sale, SKU: f.Request.SKU, Quantity: f.Request.Quantity,
			State: reservation.Refused, Reason: f.Reason, Cart: f.Request.Cart, Fingerprint: f.Request.Fingerprint(),
		}}
	}
	return m.rows[rid].Reservation
}

func (m *ledgerModel) tombstone(takes []inventory.Pending) []inventory.LegOutcome {
	out := make([]inventory.LegOutcome, len(takes))
	for i, p := range takes {
		if m.takes[p.ID] == "" {
			m.takes[p.ID] = inventory.Aborted
		}
		out[i] = m.takes[p.ID]
	}
	return out
}

func (m *ledgerModel) addStock(a inventory.Addition) []inventory.BucketID {
	if m.additions[a.ID] {
		return nil
	}
	m.additions[a.ID] = true
	m.totals[a.Item.SKU] += a.Qty
	of := m.itemBuckets(a.Item.SKU)
	return m.grant(nil, a.Qty, of)
}

// grant shares units out over buckets with a credit each, from another bucket or as new ones.
func (m *ledgerModel) grant(from *inventory.BucketID, qty int64, to []inventory.Bucket) []inventory.BucketID {
	var credited []inventory.BucketID
	if len(to) == 0 {
		return nil
	}
	for i, units := range inventory.Split(qty, len(to)) {
		if units == 0 {
			continue
		}
		if from != nil {
			m.post(*from, -units, 0, 0)
		}
		m.post(to[i].ID, units, 0, 0)
		m.credit(to[i].ID, units, id.ID{})
		credited = append(credited, to[i].ID)
	}
	return credited
}

func (m *ledgerModel) transfer(t inventory.Transfer) inventory.LegOutcome {
	if known := m.takes[t.Leg.Take]; known != "" {
		return known
	}
	donor, ok := m.buckets[t.Leg.Bucket]
	to, there := m.buckets[inventory.BucketID{Item: t.Leg.Bucket.Item, Shard: t.To}]
	m.takes[t.Leg.Take] = inventory.Aborted
	if ok && there && donor.ID != to.ID && donor.Epoch == t.Leg.Epoch && donor.Available() >= int64(t.Leg.Qty) {
		m.takes[t.Leg.Take] = inventory.Committed
		m.grant(&donor.ID, int64(t.Leg.Qty), []inventory.Bucket{to})
	}
	return m.takes[t.Leg.Take]
}

func (m *ledgerModel) evacuate(from inventory.BucketID, to []int) ([]inventory.BucketID, error) {
	gone, ok := m.buckets[from]
	if !ok {
		return nil, inventory.ErrUnknownSale
	}
	m.raise(from)
	var heirs []inventory.Bucket
	for _, shard := range to {
		if b, ok := m.buckets[inventory.BucketID{Item: from.Item, Shard: shard}]; ok && shard != from.Shard {
			heirs = append(heirs, b)
		}
	}
	return m.grant(&from, gone.Available(), heirs), nil
}

func (m *ledgerModel) raise(id inventory.BucketID) {
	b := m.buckets[id]
	b.Epoch++
	m.buckets[id] = b
}

func (m *ledgerModel) reopen(of inventory.BucketID, from int64) (inventory.Bucket, map[id.ID]int, error) {
	if row, ok := m.buckets[of]; !ok || row.Epoch != from {
		return inventory.Bucket{}, nil, inventory.ErrFenced
	}
	m.raise(of)
	users := map[id.ID]int{}
	for _, r := range m.rows {
		for _, g := range r.legs {
			if g.Bucket == of && r.State.Active() {
				users[r.User] += g.Qty
			}
		}
	}
	return m.buckets[of], users, nil
}

func (m *ledgerModel) setStatus(status inventory.SaleStatus, opens, ends time.Duration, revision int64) {
	if revision > m.sale.Revision {
		m.sale.Status, m.opens, m.ends, m.sale.Revision = status, opens, ends, revision
	}
}
