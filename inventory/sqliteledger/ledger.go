// Package sqliteledger is the ledger in a SQLite file: the embedded default. One writer makes every
// transaction serial, so a group is decided claim by claim.
package sqliteledger

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"io/fs"
	"time"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations is the schema, for sqlite.Migrate.
var Migrations, _ = fs.Sub(files, "migrations")

// Ledger implements the ledger's contracts on a SQLite file.
type Ledger struct {
	sqlite.Outbox
	db         *sqlite.DB
	clock      func() time.Time
	mostUnpaid int // holds that a shopper may have unpaid; 0: any number
}

// New returns the ledger of a migrated file, on this clock.
func New(db *sqlite.DB, clock func() time.Time) *Ledger {
	return &Ledger{Outbox: sqlite.NewOutbox(db, clock), db: db, clock: clock}
}

// LimitUnpaid sets how many reservations a shopper may hold or be paying for at the same time, over all
// sales; 0, as in a new ledger, for any number. Call it before Commit.
func (l *Ledger) LimitUnpaid(most int) { l.mostUnpaid = most }

// querier is a transaction, or the reading side.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// now is the ledger's clock, in the precision that is stored.
func (l *Ledger) now() time.Time { return l.clock().UTC().Truncate(time.Microsecond) }

// Commit implements inventory.Ledger.
func (l *Ledger) Commit(ctx context.Context, claims []inventory.Claim) ([]inventory.Decision, error) {
	var decisions []inventory.Decision
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		now := l.now()
		sales := map[id.ID]inventory.Sale{}
		decisions = make([]inventory.Decision, len(claims))
		for i, c := range claims {
			d, err := l.decide(ctx, tx, c, now, sales)
			if err != nil {
				return err
			}
			decisions[i] = d
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: commit: %w", err)
	}
	return decisions, nil
}

func (l *Ledger) decide(ctx context.Context, tx *sql.Tx, c inventory.Claim, now time.Time, sales map[id.ID]inventory.Sale) (inventory.Decision, error) {
	var d inventory.Decision
	rid := c.Request.ID()
	row, err := find(ctx, tx, rid)
	switch {
	case errors.Is(err, reservation.ErrNotFound):
		d, err = l.admit(ctx, tx, c, rid, now, sales)
	case err != nil:
	case row.Fingerprint != c.Request.Fingerprint():
		d.Err = reservation.ErrKeyReused
	case row.State == reservation.Refused:
		d.Reservation, d.Err = row, reservation.Refusal(row.Reason)
	default:
		d.Reservation, d.Replayed, d.Event = row, true, inventory.Held(row, c.TraceParent)
	}
	if err != nil {
		return d, err
	}
	// Whatever was not committed gets a tombstone now, so that no later delivery can commit it.
	d.Outcomes = make([]inventory.LegOutcome, len(c.Legs))
	for i, leg := range c.Legs {
		if d.Outcomes[i], err = tombstone(ctx, tx, leg.Take, leg.Bucket, leg.Epoch, leg.Qty); err != nil {
			return d, err
		}
	}
	return d, nil
}

// tombstone records a take as aborted unless it has an outcome, and returns the outcome.
func tombstone(ctx context.Context, tx *sql.Tx, take id.ID, b inventory.BucketID, epoch int64, qty int) (inventory.LegOutcome, error) {
	_, err := tx.ExecContext(ctx, `INSERT INTO leg (take, reservation, sale, sku, shard, epoch, qty, outcome)
		VALUES (?, x'', ?, ?, ?, ?, ?, 'aborted') ON CONFLICT (take) DO NOTHING`,
		take[:], b.Item.Sale[:], b.Item.SKU, b.Shard, epoch, qty)
	if err != nil {
		return "", err
	}
	var outcome inventory.LegOutcome
	err = tx.QueryRowContext(ctx, `SELECT outcome FROM leg WHERE take = ?`, take[:]).Scan(&outcome)
	return outcome, err
}

// admit holds the units of a claim that is new, or says why not.
func (l *Ledger) admit(ctx context.Context, tx *sql.Tx, c inventory.Claim, rid id.ID, now time.Time, sales map[id.ID]inventory.Sale) (inventory.Decision, error) {
	refused := func(err error) (inventory.Decision, error) { return inventory.Decision{Err: err}, nil }
	req := c.Request
	sale, known := sales[req.Sale]
	if !known {
		var err error
		if sale, err = terms(ctx, tx, req.Sale); err != nil && !errors.Is(err, inventory.ErrUnknownSale) {
			return inventory.Decision{}, err
		}
		sales[req.Sale] = sale
	}
	price, listed := priceOf(sale, req.SKU)
	switch {
	case !listed:
		return refused(reservation.ErrUnknownItem)
	case !sale.OpenAt(now):
		return refused(reservation.ErrSaleNotOpen)
	}
	// Before the units, as in the gate: a limit is final, and a shortage may pass.
	has, err := bound(ctx, tx, inventory.ItemID{Sale: req.Sale, SKU: req.SKU}, req.User)
	if err != nil {
		return inventory.Decision{}, err
	}
	if sale.Limit > 0 && has+req.Quantity > sale.Limit {
		return refused(reservation.ErrLimitReached)
	}
	if l.mostUnpaid > 0 {
		var holds int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM reservation WHERE user_id = ? AND state IN ('held', 'paying')`, req.User[:]).Scan(&holds)
		if err != nil {
			return inventory.Decision{}, err
		}
		if holds >= l.mostUnpaid {
			return refused(reservation.ErrTooManyUnpaid)
		}
	}
	need := map[inventory.BucketID]int64{}
	for _, leg := range c.Legs {
		var outcome string
		err := tx.QueryRowContext(ctx, `SELECT outcome FROM leg WHERE take = ?`, leg.Take[:]).Scan(&outcome)
		if err == nil {
			return refused(inventory.ErrTakeAborted)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return inventory.Decision{}, err
		}
		var epoch, free int64
		need[leg.Bucket] += int64(leg.Qty)
		err = tx.QueryRowContext(ctx, `SELECT epoch, granted - held - sold FROM bucket WHERE sale = ? AND sku = ? AND shard = ?`,
			leg.Bucket.Item.Sale[:], leg.Bucket.Item.SKU, leg.Bucket.Shard).Scan(&epoch, &free)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return refused(reservation.ErrUnknownItem)
		case err != nil:
			return inventory.Decision{}, err
		case epoch != leg.Epoch:
			return refused(inventory.ErrFenced)
		case free < need[leg.Bucket]:
			return refused(inventory.ErrNoUnits)
		}
	}
	r := reservation.Reservation{
		ID: rid, User: req.User, Sale: req.Sale, SKU: req.SKU, Quantity: req.Quantity, UnitPrice: price, State: reservation.Held,
		Cart: req.Cart, Fingerprint: req.Fingerprint(), CreatedAt: now, ExpiresAt: now.Add(sale.HoldFor),
	}
	if err := insert(ctx, tx, r); err != nil {
		return inventory.Decision{}, err
	}
	for _, leg := range c.Legs {
		_, err := tx.ExecContext(ctx, `INSERT INTO leg (take, reservation, sale, sku, shard, epoch, qty, outcome) VALUES (?,?,?,?,?,?,?,'committed')`,
			leg.Take[:], rid[:], leg.Bucket.Item.Sale[:], leg.Bucket.Item.SKU, leg.Bucket.Shard, leg.Epoch, leg.Qty)
		if err != nil {
			return inventory.Decision{}, err
		}
		if err := post(ctx, tx, leg.Bucket, "hold", 0, int64(leg.Qty), 0, rid, now); err != nil {
			return inventory.Decision{}, err
		}
	}
	if err := allow(ctx, tx, r, req.Quantity); err != nil {
		return inventory.Decision{}, err
	}
	e := inventory.Held(r, c.TraceParent)
	return inventory.Decision{Reservation: r, Event: e}, sqlite.Enqueue(ctx, tx, now, []transport.Envelope{e})
}

func priceOf(s inventory.Sale, sku string) (money.Money, bool) {
	for _, i := range s.Items {
		if i.SKU == sku {
			return i.UnitPrice, true
		}
	}
	return money.Money{}, false
}

// post changes a bucket row and writes the same change to the journal.
func post(ctx context.Context, tx *sql.Tx, b inventory.BucketID, kind string, granted, held, sold int64, cause id.ID, now time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE bucket SET granted = granted + ?, held = held + ?, sold = sold + ? WHERE sale = ? AND sku = ? AND shard = ?`,
		granted, held, sold, b.Item.Sale[:], b.Item.SKU, b.Shard)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO journal (sale, sku, shard, kind, d_granted, d_held, d_sold, cause, at) VALUES (?,?,?,?,?,?,?,?,?)`,
		b.Item.Sale[:], b.Item.SKU, b.Shard, kind, granted, held, sold, cause[:], sqlite.Micros(now))
	return err
}

// allow changes how many units of an item a shopper has bound.
func allow(ctx context.Context, tx *sql.Tx, r reservation.Reservation, qty int) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO allowance (sale, sku, user_id, qty) VALUES (?,?,?,0) ON CONFLICT DO NOTHING`, r.Sale[:], r.SKU, r.User[:])
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE allowance SET qty = qty + ? WHERE sale = ? AND sku = ? AND user_id = ?`, qty, r.Sale[:], r.SKU, r.User[:])
	return err
}
