package sqliteledger

import (
	"context"
	"database/sql"
	"errors"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/inventory"
	"fmt"
	"slices"
	"time"
)

// Buckets implements inventory.Books.
func (l *Ledger) Buckets(ctx context.Context, of []inventory.ItemID) ([]inventory.Bucket, error) {
	if of == nil {
		return l.buckets(ctx, `JOIN sale s ON s.id = b.sale WHERE s.ended_at = 0 OR s.ended_at > ?`, sqlite.Micros(l.now().Add(-24*time.Hour)))
	}
	of = slices.Clone(of)
	slices.SortFunc(of, inventory.ItemID.Compare)
	var out []inventory.Bucket
	for _, item := range slices.Compact(of) {
		bs, err := l.buckets(ctx, `WHERE b.sale = ? AND b.sku = ?`, item.Sale[:], item.SKU)
		if err != nil {
			return nil, err
		}
		out = append(out, bs...)
	}
	return out, nil
}

func (l *Ledger) buckets(ctx context.Context, which string, args ...any) ([]inventory.Bucket, error) {
	rows, err := l.db.Read.QueryContext(ctx, `SELECT b.sale, b.sku, b.shard, b.epoch, b.granted, b.held, b.sold, b.credit_seq
		FROM bucket b `+which+` ORDER BY b.sale, b.sku, b.shard`, args...)
	if err != nil {
		return nil, fmt.Errorf("ledger: buckets: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []inventory.Bucket
	for rows.Next() {
		var b inventory.Bucket
		var sale []byte
		if err := rows.Scan(&sale, &b.ID.Item.SKU, &b.ID.Shard, &b.Epoch, &b.Granted, &b.Held, &b.Sold, &b.CreditSeq); err != nil {
			return nil, fmt.Errorf("ledger: buckets: %w", err)
		}
		b.ID.Item.Sale = id.ID(sale)
		out = append(out, b)
	}
	return out, rows.Err()
}

// Reopen implements inventory.Books.
func (l *Ledger) Reopen(ctx context.Context, bucket inventory.BucketID, from int64) (inventory.Bucket, map[id.ID]int, error) {
	b := inventory.Bucket{ID: bucket}
	users := map[id.ID]int{}
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		clear(users)
		err := tx.QueryRowContext(ctx, `UPDATE bucket SET epoch = epoch + 1 WHERE sale = ? AND sku = ? AND shard = ? AND epoch = ?
			RETURNING epoch, granted, held, sold, credit_seq`, bucket.Item.Sale[:], bucket.Item.SKU, bucket.Shard, from).
			Scan(&b.Epoch, &b.Granted, &b.Held, &b.Sold, &b.CreditSeq)
		if err != nil || b.Held+b.Sold == 0 { // nobody has anything in it
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT r.user_id, sum(g.qty) FROM leg g JOIN reservation r ON r.id = g.reservation
			WHERE g.sale = ? AND g.sku = ? AND g.shard = ? AND g.outcome = 'committed' AND r.state IN ('held', 'paying', 'paid') GROUP BY r.user_id`,
			bucket.Item.Sale[:], bucket.Item.SKU, bucket.Shard)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var user []byte
			var qty int
			if err := rows.Scan(&user, &qty); err != nil {
				return err
			}
			users[id.ID(user)] = qty
		}
		return rows.Err()
	})
	if errors.Is(err, sql.ErrNoRows) {
		return b, nil, inventory.ErrFenced
	}
	if err != nil {
		return b, nil, fmt.Errorf("ledger: reopen: %w", err)
	}
	return b, users, nil
}

// Credits implements inventory.Books.
func (l *Ledger) Credits(ctx context.Context, b inventory.BucketID, after int64, limit int) ([]inventory.Credit, error) {
	rows, err := l.db.Read.QueryContext(ctx, `SELECT seq, qty, user_id FROM credit WHERE sale = ? AND sku = ? AND shard = ? AND seq > ? ORDER BY seq LIMIT ?`,
		b.Item.Sale[:], b.Item.SKU, b.Shard, after, limit)
	if err != nil {
		return nil, fmt.Errorf("ledger: credits: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []inventory.Credit
	for rows.Next() {
		c := inventory.Credit{Bucket: b}
		var user []byte
		if err := rows.Scan(&c.Seq, &c.Qty, &user); err != nil {
			return nil, fmt.Errorf("ledger: credits: %w", err)
		}
		c.User = id.ID(user)
		out = append(out, c)
	}
	return out, rows.Err()
}

// Tombstone implements inventory.Books.
func (l *Ledger) Tombstone(ctx context.Context, takes []inventory.Pending) ([]inventory.LegOutcome, error) {
	outcomes := make([]inventory.LegOutcome, len(takes))
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		for i, t := range takes {
			var err error
			if outcomes[i], err = tombstone(ctx, tx, t.ID, t.Bucket, t.Epoch, t.Qty); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: tombstone: %w", err)
	}
	return outcomes, nil
}
