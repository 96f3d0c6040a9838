package pgledger

import (
	"context"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/reservation"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Commit implements inventory.Ledger: read and lock in one round trip, decide, write in another.
func (l *Ledger) Commit(ctx context.Context, claims []inventory.Claim) ([]inventory.Decision, error) {
	var decisions []inventory.Decision
	err := l.run(ctx, "commit", func(tx pgx.Tx) error {
		s, err := readStanding(ctx, tx, claims)
		if err != nil {
			return err
		}
		w := newWrites()
		decisions = make([]inventory.Decision, len(claims))
		for i, c := range claims {
			decisions[i] = s.decide(c, w)
			s.entomb(c, w)
		}
		return s.write(ctx, tx, claims, decisions, w)
	})
	if err != nil {
		return nil, err
	}
	return decisions, nil
}

// terms is what a sale says about one of its items.
type terms struct {
	sale  inventory.Sale
	price money.Money
}

// leg is a take's outcome as far as the ledger knows it.
type leg struct {
	outcome     inventory.LegOutcome
	reservation id.ID
}

// standing is everything a group of claims is decided on. The buckets are locked.
type standing struct {
	now        time.Time
	buckets    map[inventory.BucketID]*inventory.Bucket
	terms      map[inventory.ItemID]terms
	rows       map[id.ID]reservation.Reservation
	legs       map[id.ID]leg
	allowances map[allowanceKey]int
}

func readStanding(ctx context.Context, tx pgx.Tx, claims []inventory.Claim) (*standing, error) {
	var k bucketKeys
	var ids, takes, users, sales []id.ID
	var skus []string
	seen := map[inventory.BucketID]bool{}
	for _, c := range claims {
		ids = append(ids, c.Request.ID())
		sales, skus, users = append(sales, c.Request.Sale), append(skus, c.Request.SKU), append(users, c.Request.User)
		for _, g := range c.Legs {
			takes = append(takes, g.Take)
			if !seen[g.Bucket] {
				seen[g.Bucket] = true
				k.add(g.Bucket)
			}
		}
	}
	b := &pgx.Batch{}
	b.Queue(selectBuckets+` JOIN unnest($1::uuid[], $2::text[], $3::int[]) AS k (sale, sku, shard) ON b.sale = k.sale AND b.sku = k.sku AND b.shard = k.shard
		ORDER BY b.sale, b.sku, b.shard FOR UPDATE OF b`, k.sales, k.skus, k.shards)
	b.Queue(`SELECT s.id, i.sku, i.price, i.currency, s.status, s.opens_at, s.ends_at, s.per_user_limit, s.hold_us
		FROM sale s JOIN sale_item i ON i.sale = s.id WHERE (i.sale, i.sku) IN (SELECT DISTINCT * FROM unnest($1::uuid[], $2::text[]))`, sales, skus)
	b.Queue(selectReservations+` WHERE id = ANY($1::uuid[])`, ids)
	b.Queue(`SELECT take, outcome, reservation FROM leg WHERE take = ANY($1::uuid[])`, takes)
	b.Queue(`SELECT sale, sku, user_id, qty FROM allowance WHERE (sale, sku, user_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[]))`, sales, skus, users)
	b.Queue(`SELECT clock_timestamp()`) // after the locks: waiting for them is not time that a sale was open
	results := tx.SendBatch(ctx, b)
	s, err := scanStanding(results)
	if cerr := results.Close(); err == nil {
		err = cerr
	}
	return s, err
}

func scanStanding(results pgx.BatchResults) (*standing, error) {
	s := &standing{
		buckets: map[inventory.BucketID]*inventory.Bucket{}, terms: map[inventory.ItemID]terms{},
		rows: map[id.ID]reservation.Reservation{}, legs: map[id.ID]leg{}, allowances: map[allowanceKey]int{},
	}
	buckets, err := collect(results, scanBucket)
	if err != nil {
		return nil, err
	}
	for _, b := range buckets {
		s.buckets[b.ID] = &b
	}
	if _, err := collect(results, func(row pgx.CollectableRow) (struct{}, error) {
		var t terms
		var item inventory.ItemID
		var hold int64
		err := row.Scan(&item.Sale, &item.SKU, &t.price.Amount, &t.price.Currency, &t.sale.Status, &t.sale.OpensAt, &t.sale.EndsAt, &t.sale.Limit, &hold)
		t.sale.HoldFor = time.Duration(hold) * time.Microsecond
		s.terms[item] = t
		return struct{}{}, err
	}); err != nil {
		return nil, err
	}
	rows, err := collect(results, scanReservation)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		s.rows[r.ID] = r
	}
	if _, err := collect(results, func(row pgx.CollectableRow) (struct{}, error) {
		var take id.ID
		var g leg
		var of *id.ID
		err := row.Scan(&take, &g.outcome, &of)
		if of != nil {
			g.reservation = *of
		}
		s.legs[take] = g
		return struct{}{}, err
	}); err != nil {
		return nil, err
	}
	if _, err := collect(results, func(row pgx.CollectableRow) (struct{}, error) {
		var a allowanceKey
		var qty int
		err := row.Scan(&a.item.Sale, &a.item.SKU, &a.user, &qty)
		s.allowances[a] = qty
		return struct{}{}, err
	}); err != nil {
		return nil, err
	}
	return s, results.QueryRow().Scan(&s.now)
}

// decide decides one claim after those before it, and notes what is to be written.
func (s *standing) decide(c inventory.Claim, w *writes) inventory.Decision {
	rid := c.Request.ID()
	if row, ok := s.rows[rid]; ok {
		switch {
		case row.Fingerprint != c.Request.Fingerprint():
			return inventory.Decision{Err: reservation.ErrKeyReused}
		case row.State == reservation.Refused:
			return inventory.Decision{Reservation: row, Err: reservation.Refusal(row.Reason)}
		}
		return inventory.Decision{Reservation: row, Replayed: true, Event: inventory.Held(row, c.TraceParent)}
	}
	t, err := s.admit(c)
	if err != nil {
		return inventory.Decision{Err: err}
	}
	now := s.now.UTC()
	r := reservation.Reservation{
		ID: rid, User: c.Request.User, Sale: c.Request.Sale, SKU: c.Request.SKU, Quantity: c.Request.Quantity, UnitPrice: t.price,
		State: reservation.Held, Cart: c.Request.Cart, Fingerprint: c.Request.Fingerprint(), CreatedAt: now, ExpiresAt: now.Add(t.sale.HoldFor),
	}
	for _, g := range c.Legs {
		s.buckets[g.Bucket].Held += int64(g.Qty)
		s.legs[g.Take] = leg{outcome: inventory.Committed, reservation: rid}
		w.legs = append(w.legs, legRow{g, rid})
		w.post(g.Bucket, "hold", int64(g.Qty), 0, rid)
	}
	key := allowanceKey{item: inventory.ItemID{Sale: r.Sale, SKU: r.SKU}, user: r.User}
	s.allowances[key] += r.Quantity
	w.allowing[key] += r.Quantity
	s.rows[rid] = r
	w.rows = append(w.rows, r)
	e := inventory.Held(r, c.TraceParent)
	w.outbox = append(w.outbox, e)
	return inventory.Decision{Reservation: r, Event: e}
}

func (s *standing) admit(c inventory.Claim) (terms, error) {
	item := inventory.ItemID{Sale: c.Request.Sale, SKU: c.Request.SKU}
	t, ok := s.terms[item]
	switch {
	case !ok:
		return t, reservation.ErrUnknownItem
	case !t.sale.OpenAt(s.now):
		return t, reservation.ErrSaleNotOpen
	}
	// Before the units, as in the gate: a limit is final, and a shortage may pass.
	if t.sale.Limit > 0 && s.allowances[allowanceKey{item: item, user: c.Request.User}]+c.Request.Quantity > t.sale.Limit {
		return t, reservation.ErrLimitReached
	}
	need := map[inventory.BucketID]int64{}
	for _, g := range c.Legs {
		if _, known := s.legs[g.Take]; known {
			return t, inventory.ErrTakeAborted
		}
		b := s.buckets[g.Bucket]
		if b == nil {
			return t, reservation.ErrUnknownItem
		}
		if b.Epoch != g.Epoch {
			return t, inventory.ErrFenced
		}
		if need[g.Bucket] += int64(g.Qty); b.Available() < need[g.Bucket] {
			return t, inventory.ErrNoUnits
		}
	}
	return t, nil
}

// entomb gives every take of a decided claim that was not committed a tombstone, so that no later
// delivery can commit it, not even one in the same group.
func (s *standing) entomb(c inventory.Claim, w *writes) {
	for _, g := range c.Legs {
		if _, known := s.legs[g.Take]; !known {
			s.legs[g.Take] = leg{outcome: inventory.Aborted}
			w.dead = append(w.dead, legRow{Leg: g})
		}
	}
}

// write writes the group.
func (s *standing) write(ctx context.Context, tx pgx.Tx, claims []inventory.Claim, decisions []inventory.Decision, w *writes) error {
	slices.SortFunc(w.rows, func(a, b reservation.Reservation) int { return slices.Compare(a.ID[:], b.ID[:]) })
	b := &pgx.Batch{}
	sales, skus, users, qtys := w.allowances()
	b.Queue(`INSERT INTO allowance AS a (sale, sku, user_id, qty) SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::int[])
		ON CONFLICT (sale, sku, user_id) DO UPDATE SET qty = a.qty + excluded.qty RETURNING sale, sku, user_id, qty`, sales, skus, users, qtys)
	insertReservations(b, w.rows, false)
	insertLegs(b, w.legs, inventory.Committed)
	insertLegs(b, w.dead, inventory.Aborted)
	w.queue(b)
	results := tx.SendBatch(ctx, b)
	_, err := collect(results, func(row pgx.CollectableRow) (struct{}, error) {
		var a allowanceKey
		var qty int
		if err := row.Scan(&a.item.Sale, &a.item.SKU, &a.user, &qty); err != nil {
			return struct{}{}, err
		}
		// A group on another bucket let the same shopper in meanwhile: its row is visible now.
		if limit := s.terms[a.item].sale.Limit; limit > 0 && qty > limit {
			return struct{}{}, errAgain
		}
		return struct{}{}, nil
	})
	if cerr := results.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	for i, c := range claims {
		decisions[i].Outcomes = make([]inventory.LegOutcome, len(c.Legs))
		for j, g := range c.Legs {
			decisions[i].Outcomes[j] = s.legs[g.Take].outcome
		}
	}
	return nil
}

// insertLegs adds the statement that records takes. A take that somebody else recorded in between
// is a unique violation, and the group is run again.
func insertLegs(b *pgx.Batch, legs []legRow, outcome inventory.LegOutcome) {
	if len(legs) == 0 {
		return
	}
	var k bucketKeys
	takes, rids := make([]id.ID, len(legs)), make([]*id.ID, len(legs))
	epochs, qtys := make([]int64, len(legs)), make([]int32, len(legs))
	for i, g := range legs {
		k.add(g.Bucket)
		takes[i], epochs[i], qtys[i] = g.Take, g.Epoch, int32(g.Qty)
		if !g.reservation.IsZero() {
			rids[i] = &legs[i].reservation
		}
	}
	b.Queue(`INSERT INTO leg (take, reservation, sale, sku, shard, epoch, qty, outcome)
		SELECT u.*, $8::text FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::int[], $6::bigint[], $7::int[]) u`,
		takes, rids, k.sales, k.skus, k.shards, epochs, qtys, string(outcome))
}

// Move implements inventory.Ledger.
func (l *Ledger) Move(ctx context.Context, moves []inventory.Move) ([]inventory.Moved, error) {
	var out []inventory.Moved
	err := l.run(ctx, "move", func(tx pgx.Tx) error {
		g, err := readGroup(ctx, tx, moves)
		if err != nil {
			return err
		}
		w := newWrites()
		out = make([]inventory.Moved, len(moves))
		for i, m := range moves {
			a := g.move(m, w)
			if e, ok := inventory.FollowMove(m, a, g.now.UTC()); ok {
				a.Event = e
				if a.Applied || a.Err != nil { // a repeated move was announced by the call that made it
					w.outbox = append(w.outbox, e)
				}
			}
			out[i] = a
		}
		return g.write(ctx, tx, w)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// moving is what a group of moves is decided on. Buckets and reservations are locked.
type moving struct {
	now     time.Time
	buckets map[inventory.BucketID]*inventory.Bucket
	rows    map[id.ID]*reservation.Reservation
	legs    map[id.ID][]legRow
	moved   map[id.ID]bool
}

func readGroup(ctx context.Context, tx pgx.Tx, moves []inventory.Move) (*moving, error) {
	var ids, shifting []id.ID
	for _, m := range moves {
		ids = append(ids, m.Reservation)
		if m.Kind != reservation.MovePay { // paying changes no bucket, so it waits for none
			shifting = append(shifting, m.Reservation)
		}
	}
	b := &pgx.Batch{}
	// The legs of a reservation never change, so they can be read before the locks. One that is committed
	// just after that read is found below.
	b.Queue(selectBuckets+` WHERE (b.sale, b.sku, b.shard) IN (SELECT g.sale, g.sku, g.shard FROM leg g WHERE g.reservation = ANY($1::uuid[]))
		ORDER BY b.sale, b.sku, b.shard FOR UPDATE OF b`, shifting)
	b.Queue(selectReservations+` WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE`, ids)
	b.Queue(`SELECT reservation, sale, sku, shard, qty FROM leg WHERE reservation = ANY($1::uuid[]) AND outcome = 'committed' ORDER BY shard, take`, shifting)
	b.Queue(`SELECT clock_timestamp()`)
	results := tx.SendBatch(ctx, b)
	g := &moving{
		buckets: map[inventory.BucketID]*inventory.Bucket{}, rows: map[id.ID]*reservation.Reservation{}, legs: map[id.ID][]legRow{}, moved: map[id.ID]bool{},
	}
	err := func() error {
		buckets, err := collect(results, scanBucket)
		if err != nil {
			return err
		}
		for _, b := range buckets {
			g.buckets[b.ID] = &b
		}
		rows, err := collect(results, scanReservation)
		if err != nil {
			return err
		}
		for _, r := range rows {
			g.rows[r.ID] = &r
		}
		if _, err := collect(results, func(row pgx.CollectableRow) (struct{}, error) {
			var v legRow
			err := row.Scan(&v.reservation, &v.Bucket.Item.Sale, &v.Bucket.Item.SKU, &v.Bucket.Shard, &v.Qty)
			g.legs[v.reservation] = append(g.legs[v.reservation], v)
			return struct{}{}, err
		}); err != nil {
			return err
		}
		return results.QueryRow().Scan(&g.now)
	}()
	if cerr := results.Close(); err == nil {
		err = cerr
	}
	for _, legs := range g.legs {
		for _, v := range legs {
			if g.buckets[v.Bucket] == nil && err == nil {
				err = errAgain // its buckets are not locked
			}
		}
	}
	return g, err
}

// move makes one move after those before it, and notes what is to be written.
func (g *moving) move(m inventory.Move, w *writes) inventory.Moved {
	r := g.rows[m.Reservation]
	if r == nil || !m.User.IsZero() && r.User != m.User {
		return inventory.Moved{Err: reservation.ErrNotFound}
	}
	if verdict, made := m.Judge(*r, g.now); verdict != nil || made {
		return inventory.Moved{Reservation: *r, Err: verdict}
	}
	*r = m.Apply(*r)
	g.moved[r.ID] = true
	a := inventory.Moved{Reservation: *r, Applied: true}
	held, sold, back := m.Deltas()
	if held == 0 && sold == 0 {
		return a
	}
	for _, v := range g.legs[r.ID] {
		qty := int64(v.Qty)
		w.post(v.Bucket, string(m.Kind), held*qty, sold*qty, r.ID)
		if !back {
			continue
		}
		b := g.buckets[v.Bucket]
		b.CreditSeq++
		w.buckets[v.Bucket].credits++
		w.credits = append(w.credits, inventory.Credit{Bucket: v.Bucket, Seq: b.CreditSeq, Qty: qty, User: r.User})
		a.Credited = append(a.Credited, v.Bucket)
	}
	if back {
		w.allowing[allowanceKey{item: inventory.ItemID{Sale: r.Sale, SKU: r.SKU}, user: r.User}] -= r.Quantity
	}
	return a
}

func (g *moving) write(ctx context.Context, tx pgx.Tx, w *writes) error {
	b := &pgx.Batch{}
	if len(g.moved) > 0 {
		var ids, pays []id.ID
		var states, reasons []string
		for v := range g.moved {
			r := g.rows[v]
			ids, pays, states, reasons = append(ids, r.ID), append(pays, r.Payment), append(states, string(r.State)), append(reasons, r.Reason)
		}
		b.Queue(`UPDATE reservation r SET state = u.state, reason = u.reason, payment = u.payment
			FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[]) AS u (id, state, reason, payment) WHERE r.id = u.id`, ids, states, reasons, pays)
	}
	if len(w.allowing) > 0 {
		sales, skus, users, qtys := w.allowances()
		b.Queue(`UPDATE allowance a SET qty = a.qty + d.qty FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::int[]) AS d (sale, sku, user_id, qty)
			WHERE a.sale = d.sale AND a.sku = d.sku AND a.user_id = d.user_id`, sales, skus, users, qtys)
	}
	w.queue(b)
	return exec(ctx, tx, b)
}
