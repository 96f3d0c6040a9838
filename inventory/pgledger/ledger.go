// Package pgledger is the ledger on PostgreSQL. Groups of claims and of moves are decided in one
// transaction each: locked rows are read, decided on in Go, and written back with one statement a
// table.
//
// Lock order, the same for every transaction: bucket rows by (sale, sku, shard), then, where what they
// hold unpaid is bounded, shoppers, then reservations by id and allowances by (sale, sku, user). Buckets
// come first, so two transactions that could meet later have been put in order by then; what still
// deadlocks is run again.
package pgledger

import (
	"context"
	"embed"
	"errors"
	"flashsale/database/postgres"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations is the schema, for postgres.Migrate.
var Migrations, _ = fs.Sub(files, "migrations")

// Ledger implements the ledger's contracts on PostgreSQL.
type Ledger struct {
	announcer
	wary       atomic.Int64 // groups still to be read whole
	mostUnpaid int          // holds that a shopper may have unpaid; 0: any number
}

// New returns the ledger of a migrated database.
func New(pool *pgxpool.Pool) *Ledger {
	return &Ledger{announcer: announcer{Outbox: postgres.NewOutbox(pool), pool: pool, waiting: map[id.ID]*announcement{}}}
}

// LimitUnpaid sets how many reservations a shopper may hold or be paying for at the same time, over all
// sales; 0, as in a new ledger, for any number. Call it before Commit.
func (l *Ledger) LimitUnpaid(most int) { l.mostUnpaid = most }

// errAgain asks for the transaction to be run again: another one was faster, and what it wrote is
// visible now.
var errAgain = errors.New("ledger: a concurrent transaction was faster")

const maxRuns = 8

// run runs f in a transaction, again when a concurrent one got in between.
func (l *Ledger) run(ctx context.Context, what string, f func(tx pgx.Tx) error) error {
	return l.repeat(what, func() error { return pgx.BeginFunc(ctx, l.pool, f) })
}

// runGroup is run for what is done all the time, in two round trips.
func (l *Ledger) runGroup(ctx context.Context, what string, f func(tx *postgres.Tx) error) error {
	return l.repeat(what, func() error { return postgres.InTx(ctx, l.pool, f) })
}

func (l *Ledger) repeat(what string, transaction func() error) error {
	for attempt := 1; ; attempt++ {
		err := transaction()
		code := postgres.Code(err)
		again := errors.Is(err, errAgain) || postgres.Conflict(err) || code == "23505" /* unique_violation */ || code == overLimit
		if err == nil || !again || attempt == maxRuns {
			if err != nil {
				return fmt.Errorf("ledger: %s: %w", what, err)
			}
			return nil
		}
	}
}

// columns of bucket keys, for unnest.
type bucketKeys struct {
	sales  []id.ID
	skus   []string
	shards []int32
}

func (k *bucketKeys) add(b inventory.BucketID) {
	k.sales = append(k.sales, b.Item.Sale)
	k.skus = append(k.skus, b.Item.SKU)
	k.shards = append(k.shards, int32(b.Shard))
}

const (
	reservationColumns = `r.id, r.user_id, r.sale, r.sku, r.qty, r.price, r.currency, r.state, r.reason, r.payment, r.cart, r.fingerprint, r.created_at, r.expires_at`
	selectReservations = `SELECT ` + reservationColumns + ` FROM reservation r`
)

func scanReservation(row pgx.CollectableRow) (reservation.Reservation, error) { return scanAfter(row) }

// scanAfter reads a reservation's columns, after those that go into before.
func scanAfter(row pgx.CollectableRow, before ...any) (reservation.Reservation, error) {
	var r reservation.Reservation
	var print []byte
	err := row.Scan(append(before, &r.ID, &r.User, &r.Sale, &r.SKU, &r.Quantity, &r.UnitPrice.Amount, &r.UnitPrice.Currency, &r.State, &r.Reason,
		&r.Payment, &r.Cart, &print, &r.CreatedAt, &r.ExpiresAt)...)
	if err == nil {
		r.Fingerprint = [32]byte(print)
		r.CreatedAt, r.ExpiresAt = r.CreatedAt.UTC(), r.ExpiresAt.UTC()
	}
	return r, err
}

const selectBuckets = `SELECT b.sale, b.sku, b.shard, b.epoch, b.granted, b.held, b.sold, b.credit_seq FROM bucket b`

func scanBucket(row pgx.CollectableRow) (inventory.Bucket, error) {
	var b inventory.Bucket
	err := row.Scan(&b.ID.Item.Sale, &b.ID.Item.SKU, &b.ID.Shard, &b.Epoch, &b.Granted, &b.Held, &b.Sold, &b.CreditSeq)
	return b, err
}

// writes gathers what a transaction writes, a slice a column.
type writes struct {
	buckets  map[inventory.BucketID]*change
	held     []held // new reservations
	legs     []legRow
	dead     []legRow // takes that get a tombstone
	credits  []inventory.Credit
	journal  []entry
	outbox   []transport.Envelope
	allowing map[allowanceKey]int

	announced []int64 // rows, when they are written
}

type change struct{ held, sold, credits int64 }

type legRow struct {
	inventory.Leg
	reservation id.ID
}

type entry struct {
	bucket              inventory.BucketID
	kind                string
	granted, held, sold int64
	cause               id.ID
}

type allowanceKey struct {
	item inventory.ItemID
	user id.ID
}

func newWrites() *writes {
	return &writes{buckets: map[inventory.BucketID]*change{}, allowing: map[allowanceKey]int{}}
}

// post changes a bucket and journals the same change.
func (w *writes) post(b inventory.BucketID, kind string, held, sold int64, cause id.ID) {
	c := w.buckets[b]
	if c == nil {
		c = &change{}
		w.buckets[b] = c
	}
	c.held += held
	c.sold += sold
	w.journal = append(w.journal, entry{bucket: b, kind: kind, held: held, sold: sold, cause: cause})
}

// queue adds the statements for buckets, journal, credits and outbox to a batch.
func (w *writes) queue(b *pgx.Batch) {
	if len(w.buckets) > 0 {
		var k bucketKeys
		var held, sold, credits []int64
		for bucket, c := range w.buckets {
			k.add(bucket)
			held, sold, credits = append(held, c.held), append(sold, c.sold), append(credits, c.credits)
		}
		b.Queue(`UPDATE bucket b SET held = b.held + d.held, sold = b.sold + d.sold, credit_seq = b.credit_seq + d.credits
			FROM unnest($1::uuid[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[]) AS d (sale, sku, shard, held, sold, credits)
			WHERE b.sale = d.sale AND b.sku = d.sku AND b.shard = d.shard`, k.sales, k.skus, k.shards, held, sold, credits)
	}
	queueJournal(b, w.journal)
	if len(w.credits) > 0 {
		var k bucketKeys
		var seqs, qtys []int64
		var users []id.ID
		for _, c := range w.credits {
			k.add(c.Bucket)
			seqs, qtys, users = append(seqs, c.Seq), append(qtys, c.Qty), append(users, c.User)
		}
		b.Queue(`INSERT INTO credit (sale, sku, shard, seq, qty, user_id)
			SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::uuid[])`, k.sales, k.skus, k.shards, seqs, qtys, users)
	}
	postgres.Enqueue(b, w.outbox)
}

func queueJournal(b *pgx.Batch, journal []entry) {
	if len(journal) == 0 {
		return
	}
	var k bucketKeys
	var kinds []string
	var granted, held, sold []int64
	var causes []id.ID
	for _, e := range journal {
		k.add(e.bucket)
		kinds, causes = append(kinds, e.kind), append(causes, e.cause)
		granted, held, sold = append(granted, e.granted), append(held, e.held), append(sold, e.sold)
	}
	b.Queue(`INSERT INTO journal (sale, sku, shard, kind, d_granted, d_held, d_sold, cause)
		SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::uuid[])`,
		k.sales, k.skus, k.shards, kinds, granted, held, sold, causes)
}

// allowances returns the changes of what shoppers have bound, sorted as they are locked.
func (w *writes) allowances() (sales []id.ID, skus []string, users []id.ID, qtys []int32) {
	keys := make([]allowanceKey, 0, len(w.allowing))
	for k := range w.allowing {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b allowanceKey) int {
		if d := (inventory.BucketID{Item: a.item}).Compare(inventory.BucketID{Item: b.item}); d != 0 {
			return d
		}
		return slices.Compare(a.user[:], b.user[:])
	})
	for _, k := range keys {
		sales, skus, users = append(sales, k.item.Sale), append(skus, k.item.SKU), append(users, k.user)
		qtys = append(qtys, int32(w.allowing[k]))
	}
	return sales, skus, users, qtys
}

// exec runs a batch of writes whose results nobody reads.
func exec(ctx context.Context, tx pgx.Tx, b *pgx.Batch) error {
	if b.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, b).Close()
}

func collect[T any](results pgx.BatchResults, scan pgx.RowToFunc[T]) ([]T, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// Bound implements inventory.Ledger.
func (l *Ledger) Bound(ctx context.Context, item inventory.ItemID, user id.ID) (int, error) {
	var n int
	err := l.pool.QueryRow(ctx, `SELECT qty FROM allowance WHERE sale = $1 AND sku = $2 AND user_id = $3`, item.Sale, item.SKU, user).Scan(&n)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("ledger: bound: %w", err)
	}
	return n, nil
}

// Find implements inventory.Ledger.
func (l *Ledger) Find(ctx context.Context, rid id.ID) (reservation.Reservation, error) {
	rows, err := l.pool.Query(ctx, selectReservations+` WHERE id = $1`, rid)
	if err != nil {
		return reservation.Reservation{}, fmt.Errorf("ledger: find: %w", err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanReservation)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, reservation.ErrNotFound
	}
	if err != nil {
		return r, fmt.Errorf("ledger: find: %w", err)
	}
	return r, nil
}

// Due implements inventory.Ledger.
func (l *Ledger) Due(ctx context.Context, limit int) ([]id.ID, error) {
	rows, err := l.pool.Query(ctx, `SELECT id FROM reservation WHERE state = 'held' AND expires_at <= now() ORDER BY expires_at LIMIT $1`, limit)
	if err != nil {
		return nil, fmt.Errorf("ledger: due: %w", err)
	}
	due, err := pgx.CollectRows(rows, pgx.RowTo[id.ID])
	if err != nil {
		return nil, fmt.Errorf("ledger: due: %w", err)
	}
	return due, nil
}

// newReservations are the columns of reservations that are written, an array each.
type newReservations struct {
	ids, users, sales, carts  []id.ID
	skus, currencies, reasons []string
	qtys                      []int32
	prices                    []int64
	prints                    [][]byte
	expires                   []time.Time
	traces                    []string
}

func (n *newReservations) add(r reservation.Reservation, trace string) {
	n.ids, n.users, n.sales, n.carts = append(n.ids, r.ID), append(n.users, r.User), append(n.sales, r.Sale), append(n.carts, r.Cart)
	n.skus, n.currencies, n.reasons = append(n.skus, r.SKU), append(n.currencies, r.UnitPrice.Currency), append(n.reasons, r.Reason)
	n.qtys, n.prices, n.prints = append(n.qtys, int32(r.Quantity)), append(n.prices, r.UnitPrice.Amount), append(n.prints, r.Fingerprint[:])
	n.expires, n.traces = append(n.expires, r.ExpiresAt), append(n.traces, trace)
}

// queue adds the statement that writes them, all in one state and made at one time. Reservations that
// are there stay when keep is set, and are an error otherwise.
func (n *newReservations) queue(b *pgx.Batch, state reservation.State, at time.Time, keep bool) {
	if len(n.ids) == 0 {
		return
	}
	q := `INSERT INTO reservation (id, user_id, sale, sku, qty, price, currency, reason, cart, fingerprint, expires_at, trace, payment, state, created_at)
		SELECT u.*, '00000000-0000-0000-0000-000000000000', $13::text, $14::timestamptz FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::int[],
			$6::bigint[], $7::text[], $8::text[], $9::uuid[], $10::bytea[], $11::timestamptz[], $12::text[]) AS u`
	if keep {
		q += ` ON CONFLICT (id) DO NOTHING`
	}
	b.Queue(q, n.ids, n.users, n.sales, n.skus, n.qtys, n.prices, n.currencies, n.reasons, n.carts, n.prints, n.expires, n.traces, string(state), at)
}

// Refuse implements inventory.Ledger.
func (l *Ledger) Refuse(ctx context.Context, refusals []inventory.Refusal) ([]reservation.Reservation, error) {
	ids := make([]id.ID, len(refusals))
	var out []reservation.Reservation
	err := l.run(ctx, "refuse", func(tx pgx.Tx) error {
		var now time.Time
		if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
			return err
		}
		var rows newReservations
		for i, f := range refusals {
			ids[i] = f.Request.ID()
			rows.add(reservation.Reservation{
				ID: ids[i], User: f.Request.User, Sale: f.Request.Sale, SKU: f.Request.SKU, Quantity: f.Request.Quantity,
				Reason: f.Reason, Cart: f.Request.Cart, Fingerprint: f.Request.Fingerprint(), ExpiresAt: now,
			}, f.TraceParent)
		}
		b := &pgx.Batch{}
		rows.queue(b, reservation.Refused, now, true)
		if err := exec(ctx, tx, b); err != nil {
			return err
		}
		found, err := tx.Query(ctx, selectReservations+` WHERE id = ANY($1::uuid[])`, ids)
		if err != nil {
			return err
		}
		byID := map[id.ID]reservation.Reservation{}
		all, err := pgx.CollectRows(found, scanReservation)
		for _, r := range all {
			byID[r.ID] = r
		}
		out = make([]reservation.Reservation, len(ids))
		for i, v := range ids {
			out[i] = byID[v]
		}
		return err
	})
	return out, err
}
