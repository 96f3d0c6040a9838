package sqliteledger

import (
	"context"
	"database/sql"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"fmt"
	"time"
)

// regrant moves granted units from one bucket to another, with the receiver's credit.
func regrant(ctx context.Context, tx *sql.Tx, from, to inventory.BucketID, qty int64, cause id.ID, now time.Time) error {
	if err := post(ctx, tx, from, "transfer", -qty, 0, 0, cause, now); err != nil {
		return err
	}
	if err := post(ctx, tx, to, "transfer", qty, 0, 0, cause, now); err != nil {
		return err
	}
	return credit(ctx, tx, to, qty, id.ID{})
}

// Transfer implements inventory.Balance.
func (l *Ledger) Transfer(ctx context.Context, t inventory.Transfer) (inventory.LegOutcome, error) {
	var outcome inventory.LegOutcome
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT outcome FROM leg WHERE take = ?`, t.Leg.Take[:]).Scan(&outcome)
		if !errors.Is(err, sql.ErrNoRows) {
			return err // known already, or unreadable
		}
		donor, qty := t.Leg.Bucket, int64(t.Leg.Qty)
		to := inventory.BucketID{Item: donor.Item, Shard: t.To}
		var fits int
		err = tx.QueryRowContext(ctx, `SELECT count(*) FROM bucket f JOIN bucket t ON t.sale = f.sale AND t.sku = f.sku AND t.shard = ? AND t.shard <> f.shard
			WHERE f.sale = ? AND f.sku = ? AND f.shard = ? AND f.epoch = ? AND f.granted - f.held - f.sold >= ?`,
			t.To, donor.Item.Sale[:], donor.Item.SKU, donor.Shard, t.Leg.Epoch, qty).Scan(&fits)
		if err != nil {
			return err
		}
		if fits == 0 {
			outcome, err = tombstone(ctx, tx, t.Leg.Take, donor, t.Leg.Epoch, t.Leg.Qty)
			return err
		}
		outcome = inventory.Committed
		if _, err := tx.ExecContext(ctx, `INSERT INTO leg (take, reservation, sale, sku, shard, epoch, qty, outcome) VALUES (?,x'',?,?,?,?,?,'committed')`,
			t.Leg.Take[:], donor.Item.Sale[:], donor.Item.SKU, donor.Shard, t.Leg.Epoch, qty); err != nil {
			return err
		}
		return regrant(ctx, tx, donor, to, qty, t.Leg.Take, l.now())
	})
	if err != nil {
		return "", fmt.Errorf("ledger: transfer: %w", err)
	}
	return outcome, nil
}

// Evacuate implements inventory.Balance.
func (l *Ledger) Evacuate(ctx context.Context, from inventory.BucketID, to []int) ([]inventory.BucketID, error) {
	var credited []inventory.BucketID
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		credited = nil
		var available int64
		err := tx.QueryRowContext(ctx, `UPDATE bucket SET epoch = epoch + 1 WHERE sale = ? AND sku = ? AND shard = ? RETURNING granted - held - sold`,
			from.Item.Sale[:], from.Item.SKU, from.Shard).Scan(&available)
		if err != nil {
			return err
		}
		var heirs []inventory.BucketID
		for _, shard := range to {
			b := inventory.BucketID{Item: from.Item, Shard: shard}
			var n int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM bucket WHERE sale = ? AND sku = ? AND shard = ?`, b.Item.Sale[:], b.Item.SKU, shard).Scan(&n); err != nil {
				return err
			}
			if n == 1 && shard != from.Shard {
				heirs = append(heirs, b)
			}
		}
		if len(heirs) == 0 {
			return nil
		}
		for i, qty := range inventory.Split(available, len(heirs)) {
			if qty == 0 {
				continue
			}
			if err := regrant(ctx, tx, from, heirs[i], qty, from.Item.Sale, l.now()); err != nil {
				return err
			}
			credited = append(credited, heirs[i])
		}
		return nil
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, inventory.ErrUnknownSale
	}
	if err != nil {
		return nil, fmt.Errorf("ledger: evacuate: %w", err)
	}
	return credited, nil
}

// Spread implements inventory.Balance.
func (l *Ledger) Spread(ctx context.Context, shards int) error {
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		for shard := range shards {
			_, err := tx.ExecContext(ctx, `INSERT INTO bucket (sale, sku, shard, epoch, granted)
				SELECT i.sale, i.sku, ?, 1, 0 FROM sale_item i
				WHERE NOT EXISTS (SELECT 1 FROM bucket b WHERE b.sale = i.sale AND b.sku = i.sku AND b.shard = ?)`, shard, shard)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ledger: spread: %w", err)
	}
	return nil
}
