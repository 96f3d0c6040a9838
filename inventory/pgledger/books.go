package pgledger

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/inventory"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Buckets implements inventory.Books.
func (l *Ledger) Buckets(ctx context.Context, of []inventory.ItemID) ([]inventory.Bucket, error) {
	var rows pgx.Rows
	var err error
	if of == nil {
		rows, err = l.pool.Query(ctx, selectBuckets+` JOIN sale s ON s.id = b.sale
			WHERE s.ended_at IS NULL OR s.ended_at > now() - interval '1 day' ORDER BY b.sale, b.sku, b.shard`)
	} else {
		sales, skus := make([]id.ID, len(of)), make([]string, len(of))
		for i, item := range of {
			sales[i], skus[i] = item.Sale, item.SKU
		}
		rows, err = l.pool.Query(ctx, selectBuckets+` JOIN (SELECT DISTINCT * FROM unnest($1::uuid[], $2::text[])) AS u (sale, sku)
			ON u.sale = b.sale AND u.sku = b.sku ORDER BY b.sale, b.sku, b.shard`, sales, skus)
	}
	if err != nil {
		return nil, fmt.Errorf("ledger: buckets: %w", err)
	}
	out, err := pgx.CollectRows(rows, scanBucket)
	if err != nil {
		return nil, fmt.Errorf("ledger: buckets: %w", err)
	}
	return out, nil
}

// Reopen implements inventory.Books. The row lock comes before the reads: no commit under the old
// epoch can slip in between.
func (l *Ledger) Reopen(ctx context.Context, bucket inventory.BucketID, from int64) (inventory.Bucket, map[id.ID]int, error) {
	b := inventory.Bucket{ID: bucket}
	var users map[id.ID]int
	err := l.run(ctx, "reopen", func(tx pgx.Tx) error {
		users = map[id.ID]int{}
		err := tx.QueryRow(ctx, `UPDATE bucket SET epoch = epoch + 1 WHERE sale = $1 AND sku = $2 AND shard = $3 AND epoch = $4
			RETURNING epoch, granted, held, sold, credit_seq`, bucket.Item.Sale, bucket.Item.SKU, bucket.Shard, from).
			Scan(&b.Epoch, &b.Granted, &b.Held, &b.Sold, &b.CreditSeq)
		if err != nil || b.Held+b.Sold == 0 { // nobody has anything in it
			return err
		}
		rows, err := tx.Query(ctx, `SELECT r.user_id, sum(g.qty)::int FROM leg g JOIN reservation r ON r.id = g.reservation
			WHERE g.sale = $1 AND g.sku = $2 AND g.shard = $3 AND g.outcome = 'committed' AND r.state IN ('held', 'paying', 'paid') GROUP BY r.user_id`,
			bucket.Item.Sale, bucket.Item.SKU, bucket.Shard)
		if err != nil {
			return err
		}
		_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
			var user id.ID
			var qty int
			err := row.Scan(&user, &qty)
			users[user] = qty
			return struct{}{}, err
		})
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return b, nil, inventory.ErrFenced
	}
	return b, users, err
}

// Credits implements inventory.Books.
func (l *Ledger) Credits(ctx context.Context, b inventory.BucketID, after int64, limit int) ([]inventory.Credit, error) {
	rows, err := l.pool.Query(ctx, `SELECT seq, qty, user_id FROM credit WHERE sale = $1 AND sku = $2 AND shard = $3 AND seq > $4 ORDER BY seq LIMIT $5`,
		b.Item.Sale, b.Item.SKU, b.Shard, after, limit)
	if err != nil {
		return nil, fmt.Errorf("ledger: credits: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (inventory.Credit, error) {
		c := inventory.Credit{Bucket: b}
		err := row.Scan(&c.Seq, &c.Qty, &c.User)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: credits: %w", err)
	}
	return out, nil
}

// Tombstone implements inventory.Books. A commit of the same take under way makes the insert wait
// for it, so the outcome read afterwards is final.
func (l *Ledger) Tombstone(ctx context.Context, takes []inventory.Pending) ([]inventory.LegOutcome, error) {
	outcomes := make([]inventory.LegOutcome, len(takes))
	err := l.run(ctx, "tombstone", func(tx pgx.Tx) error {
		var k bucketKeys
		ids, epochs, qtys := make([]id.ID, len(takes)), make([]int64, len(takes)), make([]int32, len(takes))
		for i, t := range takes {
			k.add(t.Bucket)
			ids[i], epochs[i], qtys[i] = t.ID, t.Epoch, int32(t.Qty)
		}
		_, err := tx.Exec(ctx, `INSERT INTO leg (take, sale, sku, shard, epoch, qty, outcome)
			SELECT u.*, 'aborted' FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::int[], $5::bigint[], $6::int[]) AS u (take, sale, sku, shard, epoch, qty)
			ORDER BY take ON CONFLICT (take) DO NOTHING`, ids, k.sales, k.skus, k.shards, epochs, qtys)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT take, outcome FROM leg WHERE take = ANY($1::uuid[])`, ids)
		if err != nil {
			return err
		}
		known := map[id.ID]inventory.LegOutcome{}
		_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
			var take id.ID
			var o inventory.LegOutcome
			err := row.Scan(&take, &o)
			known[take] = o
			return struct{}{}, err
		})
		for i, v := range ids {
			outcomes[i] = known[v]
		}
		return err
	})
	return outcomes, err
}

// Audit implements inventory.Auditor.
func (l *Ledger) Audit(ctx context.Context) ([]audit.Check, error) {
	var checks []audit.Check
	err := pgx.BeginTxFunc(ctx, l.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var overdue any
		var err error
		if err := tx.QueryRow(ctx, `SELECT now() - make_interval(secs => $1)`, inventory.ExpiryBound.Seconds()).Scan(&overdue); err != nil {
			return err
		}
		checks, err = inventory.AuditSQL(func(query string, args []any, into ...any) error {
			return tx.QueryRow(ctx, query, args...).Scan(into...)
		}, overdue)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: audit: %w", err)
	}
	return checks, nil
}

// Statement implements inventory.Auditor.
func (l *Ledger) Statement(ctx context.Context, line func(inventory.Line) error) error {
	rows, err := l.pool.Query(ctx, `SELECT id, user_id, state, qty, price, currency, payment FROM reservation ORDER BY id`)
	if err != nil {
		return fmt.Errorf("ledger: statement: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var v inventory.Line
		if err := rows.Scan(&v.Reservation, &v.User, &v.State, &v.Quantity, &v.Total.Amount, &v.Total.Currency, &v.Payment); err != nil {
			return fmt.Errorf("ledger: statement: %w", err)
		}
		v.Total.Amount *= int64(v.Quantity)
		if err := line(v); err != nil {
			return err
		}
	}
	return rows.Err()
}
