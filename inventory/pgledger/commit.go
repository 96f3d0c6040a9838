package pgledger

import (
	"context"
	"encoding/binary"
	"flashsale/database/postgres"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/reservation"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Commit implements inventory.Ledger: read and lock in one round trip, decide, write in another.
//
// Most groups hold nothing but new requests that are admitted, so what only recognises repetitions is
// not read at first: unique keys and the limits, checked by the writes, find them, and the group is
// run again with everything read. So it is when a claim is refused: it may repeat one that was not.
func (l *Ledger) Commit(ctx context.Context, claims []inventory.Claim) ([]inventory.Decision, error) {
	rids := make([]id.ID, len(claims))
	for i, c := range claims {
		rids[i] = c.Request.ID()
	}
	var decisions []inventory.Decision
	var w *writes
	whole := l.wary.Load() > 0
	if whole {
		l.wary.Add(-1)
	}
	runs := 0
	err := l.runGroup(ctx, "commit", func(tx *postgres.Tx) error {
		if runs++; runs == 2 {
			whole = true
			l.wary.Store(waryGroups)
		}
		s, err := readStanding(ctx, tx, claims, rids, whole, l.mostUnpaid)
		if err != nil {
			return err
		}
		w = newWrites()
		decisions = make([]inventory.Decision, len(claims))
		for i, c := range claims {
			if decisions[i] = s.decide(c, rids[i], w); decisions[i].Err != nil && !whole {
				return errAgain
			}
			s.entomb(c, w)
		}
		return s.write(ctx, tx, claims, decisions, w)
	})
	if err != nil {
		return nil, err
	}
	l.announced(w.announced, w.held)
	return decisions, nil
}

// waryGroups is how many groups after one with a repetition are read whole at once: repetitions come
// in crowds, and a group that is run twice costs more than the reads.
const waryGroups = 16

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
	unpaid     map[id.ID]int // reservations held or being paid for, by shopper; read only where they are bounded
	mostUnpaid int
}

// readStanding locks the buckets of a group and reads what its claims are decided on; of what only
// recognises repetitions nothing unless whole.
func readStanding(ctx context.Context, tx *postgres.Tx, claims []inventory.Claim, rids []id.ID, whole bool, mostUnpaid int) (*standing, error) {
	var k, items bucketKeys
	seen := map[inventory.BucketID]bool{}
	known := map[inventory.ItemID]bool{}
	for _, c := range claims {
		if item := (inventory.ItemID{Sale: c.Request.Sale, SKU: c.Request.SKU}); !known[item] {
			known[item] = true
			items.add(inventory.BucketID{Item: item})
		}
		for _, g := range c.Legs {
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
		FROM unnest($1::uuid[], $2::text[]) AS k (sale, sku) JOIN sale_item i ON i.sale = k.sale AND i.sku = k.sku JOIN sale s ON s.id = i.sale`, items.sales, items.skus)
	if mostUnpaid > 0 {
		queueUnpaid(b, claims)
	}
	b.Queue(`SELECT clock_timestamp()`) // after the locks: waiting for them is not time that a sale was open
	if whole {
		queueRepetitions(b, claims, rids)
	}
	var s *standing
	err := tx.Send(ctx, b, func(results pgx.BatchResults) (err error) {
		s, err = scanStanding(results, whole, mostUnpaid)
		return err
	})
	return s, err
}

// queueRepetitions reads what the claims' reservations, takes and shoppers have in the ledger already.
func queueRepetitions(b *pgx.Batch, claims []inventory.Claim, rids []id.ID) {
	var takes, users, sales []id.ID
	var skus []string
	for _, c := range claims {
		sales, skus, users = append(sales, c.Request.Sale), append(skus, c.Request.SKU), append(users, c.Request.User)
		for _, g := range c.Legs {
			takes = append(takes, g.Take)
		}
	}
	b.Queue(selectReservations+` WHERE id = ANY($1::uuid[])`, rids)
	b.Queue(`SELECT take, outcome, reservation FROM leg WHERE take = ANY($1::uuid[])`, takes)
	b.Queue(`SELECT sale, sku, user_id, qty FROM allowance WHERE (sale, sku, user_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[]))`, sales, skus, users)
}

// queueUnpaid locks the shoppers of a group, in order, and counts what each holds unpaid. The locks last
// until the commit, and what is counted under a lock is all that others have committed under it: two
// groups never take the same last place, whatever sales and buckets they are for. There is a lock a
// shopper; PostgreSQL has room for 6400 unless it is set otherwise.
func queueUnpaid(b *pgx.Batch, claims []inventory.Claim) {
	users, keys := make([]id.ID, len(claims)), make([]int64, len(claims))
	for i, c := range claims {
		users[i] = c.Request.User
		keys[i] = int64(binary.BigEndian.Uint64(c.Request.User[8:])) // its random half
	}
	slices.Sort(keys)
	b.Queue(`SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) AS k`, slices.Compact(keys))
	b.Queue(`SELECT user_id, count(*) FROM reservation WHERE user_id = ANY($1::uuid[]) AND state IN ('held', 'paying') GROUP BY user_id`, users)
}

func (s *standing) scanUnpaid(results pgx.BatchResults) error {
	if _, err := results.Exec(); err != nil { // of the locks
		return err
	}
	_, err := collect(results, func(row pgx.CollectableRow) (struct{}, error) {
		var user id.ID
		var holds int
		err := row.Scan(&user, &holds)
		s.unpaid[user] = holds
		return struct{}{}, err
	})
	return err
}

func scanStanding(results pgx.BatchResults, whole bool, mostUnpaid int) (*standing, error) {
	s := &standing{
		mostUnpaid: mostUnpaid, buckets: map[inventory.BucketID]*inventory.Bucket{}, terms: map[inventory.ItemID]terms{},
		rows: map[id.ID]reservation.Reservation{}, legs: map[id.ID]leg{}, allowances: map[allowanceKey]int{}, unpaid: map[id.ID]int{},
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
	if mostUnpaid > 0 {
		if err := s.scanUnpaid(results); err != nil {
			return nil, err
		}
	}
	if err := results.QueryRow().Scan(&s.now); err != nil || !whole {
		return s, err
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
	_, err = collect(results, func(row pgx.CollectableRow) (struct{}, error) {
		var a allowanceKey
		var qty int
		err := row.Scan(&a.item.Sale, &a.item.SKU, &a.user, &qty)
		s.allowances[a] = qty
		return struct{}{}, err
	})
	return s, err
}

// decide decides one claim after those before it, and notes what is to be written.
func (s *standing) decide(c inventory.Claim, rid id.ID, w *writes) inventory.Decision {
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
	s.unpaid[r.User]++
	s.rows[rid] = r
	e := inventory.Held(r, c.TraceParent)
	w.held = append(w.held, held{r, e})
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
	if s.mostUnpaid > 0 && s.unpaid[c.Request.User] >= s.mostUnpaid {
		return t, reservation.ErrTooManyUnpaid
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
func (s *standing) write(ctx context.Context, tx *postgres.Tx, claims []inventory.Claim, decisions []inventory.Decision, w *writes) error {
	slices.SortFunc(w.held, func(a, b held) int { return slices.Compare(a.row.ID[:], b.row.ID[:]) })
	b := &pgx.Batch{}
	s.queueAllowances(b, w)
	queueAnnouncements(b, w.held)
	var rows newReservations
	for _, h := range w.held {
		rows.add(h.row, h.event.TraceParent)
	}
	rows.queue(b, reservation.Held, s.now, false)
	insertLegs(b, w.legs, inventory.Committed)
	insertLegs(b, w.dead, inventory.Aborted)
	w.queue(b)
	if err := tx.Commit(ctx, b, func(results pgx.BatchResults) error { return s.scanWritten(results, w) }); err != nil {
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

// overLimit is what queueAllowances fails with, division_by_zero: nothing else here divides.
const overLimit = "22012"

// queueAllowances adds the statement that counts what the shoppers have bound. It fails, and with it the group, when
// one of them is over the limit: had units that were not read, or got them meanwhile by a group on another bucket.
func (s *standing) queueAllowances(b *pgx.Batch, w *writes) {
	sales, skus, users, qtys := w.allowances()
	var items bucketKeys
	var limits []int32
	for item, t := range s.terms {
		items.add(inventory.BucketID{Item: item})
		limits = append(limits, int32(t.sale.Limit))
	}
	b.Queue(`WITH bound AS (
			INSERT INTO allowance AS a (sale, sku, user_id, qty) SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::int[])
			ON CONFLICT (sale, sku, user_id) DO UPDATE SET qty = a.qty + excluded.qty RETURNING sale, sku, qty
		) SELECT 1 / (count(*) = 0)::int FROM bound b JOIN unnest($5::uuid[], $6::text[], $7::int[]) AS l (sale, sku, most) ON l.sale = b.sale AND l.sku = b.sku
		WHERE l.most > 0 AND b.qty > l.most`, sales, skus, users, qtys, items.sales, items.skus, limits)
}

func (s *standing) scanWritten(results pgx.BatchResults, w *writes) error {
	_, err := results.Exec() // of the allowances
	for range (len(w.held) + maxAnnounced - 1) / maxAnnounced {
		if err != nil {
			return err
		}
		var row int64
		err = results.QueryRow().Scan(&row)
		w.announced = append(w.announced, row)
	}
	return err
}

// insertLegs adds the statement that records takes. A take that somebody else recorded in between
// is a unique violation, and the group is run again.
func insertLegs(b *pgx.Batch, legs []legRow, outcome inventory.LegOutcome) {
	if len(legs) == 0 {
		return
	}
	var k bucketKeys
	takes, rids := make([]id.ID, len(legs)), make([]id.ID, len(legs))
	epochs, qtys := make([]int64, len(legs)), make([]int32, len(legs))
	for i, g := range legs {
		k.add(g.Bucket)
		takes[i], rids[i], epochs[i], qtys[i] = g.Take, g.reservation, g.Epoch, int32(g.Qty)
	}
	b.Queue(`INSERT INTO leg (take, reservation, sale, sku, shard, epoch, qty, outcome)
		SELECT u.take, nullif(u.rid, '00000000-0000-0000-0000-000000000000'), u.sale, u.sku, u.shard, u.epoch, u.qty, $8::text
		FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::int[], $6::bigint[], $7::int[]) AS u (take, rid, sale, sku, shard, epoch, qty)`,
		takes, rids, k.sales, k.skus, k.shards, epochs, qtys, string(outcome))
}

// Move implements inventory.Ledger.
func (l *Ledger) Move(ctx context.Context, moves []inventory.Move) ([]inventory.Moved, error) {
	var out []inventory.Moved
	err := l.runGroup(ctx, "move", func(tx *postgres.Tx) error {
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

func readGroup(ctx context.Context, tx *postgres.Tx, moves []inventory.Move) (*moving, error) {
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
	g := &moving{
		buckets: map[inventory.BucketID]*inventory.Bucket{}, rows: map[id.ID]*reservation.Reservation{}, legs: map[id.ID][]legRow{}, moved: map[id.ID]bool{},
	}
	err := tx.Send(ctx, b, func(results pgx.BatchResults) error {
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
	})
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

func (g *moving) write(ctx context.Context, tx *postgres.Tx, w *writes) error {
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
	if b.Len() == 0 {
		return nil
	}
	return tx.Commit(ctx, b, nil)
}
