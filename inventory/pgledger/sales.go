package pgledger

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Sale implements inventory.Sales.
func (l *Ledger) Sale(ctx context.Context, sale id.ID) (inventory.Sale, error) {
	s := inventory.Sale{ID: sale}
	// One statement is one snapshot. A sale has at least one item, and an item a bucket.
	rows, err := l.pool.Query(ctx, `SELECT s.status, s.opens_at, s.ends_at, s.per_user_limit, s.hold_us, s.revision,
			i.sku, i.price, i.currency, i.total, b.shard, b.epoch, b.granted, b.held, b.sold, b.credit_seq
		FROM sale s JOIN sale_item i ON i.sale = s.id JOIN bucket b ON b.sale = i.sale AND b.sku = i.sku
		WHERE s.id = $1 ORDER BY i.sku, b.shard`, sale)
	if err != nil {
		return s, fmt.Errorf("ledger: sale: %w", err)
	}
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		var i inventory.Item
		var b inventory.Bucket
		var hold int64
		err := row.Scan(&s.Status, &s.OpensAt, &s.EndsAt, &s.Limit, &hold, &s.Revision,
			&i.SKU, &i.UnitPrice.Amount, &i.UnitPrice.Currency, &i.Total, &b.ID.Shard, &b.Epoch, &b.Granted, &b.Held, &b.Sold, &b.CreditSeq)
		if err != nil {
			return struct{}{}, err
		}
		s.HoldFor = time.Duration(hold) * time.Microsecond
		if n := len(s.Items); n == 0 || s.Items[n-1].SKU != i.SKU {
			s.Items = append(s.Items, i)
		}
		b.ID.Item = inventory.ItemID{Sale: sale, SKU: i.SKU}
		last := &s.Items[len(s.Items)-1]
		last.Buckets = append(last.Buckets, b)
		return struct{}{}, nil
	})
	if err != nil {
		return s, fmt.Errorf("ledger: sale: %w", err)
	}
	if len(s.Items) == 0 {
		return s, inventory.ErrUnknownSale
	}
	s.OpensAt, s.EndsAt = s.OpensAt.UTC(), s.EndsAt.UTC()
	return s, nil
}

// Provision implements inventory.Sales.
func (l *Ledger) Provision(ctx context.Context, p inventory.Provision) error {
	return l.run(ctx, "provision", func(tx pgx.Tx) error {
		s := p.Sale
		tag, err := tx.Exec(ctx, `INSERT INTO sale (id, status, opens_at, ends_at, per_user_limit, hold_us, revision) VALUES ($1,$2,$3,$4,$5,$6,$7) ON CONFLICT DO NOTHING`,
			s.ID, string(s.Status), s.OpensAt, s.EndsAt, s.Limit, s.HoldFor.Microseconds(), s.Revision)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		var skus, currencies []string
		var prices, totals, granted []int64
		var k bucketKeys
		var journal []entry
		for _, i := range s.Items {
			skus, currencies = append(skus, i.SKU), append(currencies, i.UnitPrice.Currency)
			prices, totals = append(prices, i.UnitPrice.Amount), append(totals, i.Total)
			for shard, units := range inventory.Split(i.Total, p.Shards) {
				b := inventory.BucketID{Item: inventory.ItemID{Sale: s.ID, SKU: i.SKU}, Shard: shard}
				k.add(b)
				granted = append(granted, units)
				journal = append(journal, entry{bucket: b, kind: "grant", granted: units, cause: s.ID})
			}
		}
		b := &pgx.Batch{}
		b.Queue(`INSERT INTO sale_item (sale, sku, price, currency, total) SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::text[], $5::bigint[])`,
			s.ID, skus, prices, currencies, totals)
		b.Queue(`INSERT INTO bucket (sale, sku, shard, epoch, granted) SELECT sale, sku, shard, 1, granted
			FROM unnest($1::uuid[], $2::text[], $3::int[], $4::bigint[]) AS u (sale, sku, shard, granted)`, k.sales, k.skus, k.shards, granted)
		queueJournal(b, journal)
		return exec(ctx, tx, b)
	})
}

// SetStatus implements inventory.Sales.
func (l *Ledger) SetStatus(ctx context.Context, s inventory.Sale) error {
	err := l.run(ctx, "status", func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE sale SET status = $2, opens_at = $3, ends_at = $4, revision = $5,
			ended_at = CASE WHEN $2 = 'ended' THEN now() END WHERE id = $1 AND revision < $5`, s.ID, string(s.Status), s.OpensAt, s.EndsAt, s.Revision)
		if err != nil {
			return err
		}
		var one int
		return tx.QueryRow(ctx, `SELECT 1 FROM sale WHERE id = $1`, s.ID).Scan(&one)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return inventory.ErrUnknownSale
	}
	return err
}

// AddStock implements inventory.Sales.
func (l *Ledger) AddStock(ctx context.Context, a inventory.Addition) ([]inventory.BucketID, error) {
	var credited []inventory.BucketID
	err := l.run(ctx, "add stock", func(tx pgx.Tx) error {
		credited = nil
		rows, err := tx.Query(ctx, selectBuckets+` WHERE b.sale = $1 AND b.sku = $2 ORDER BY b.shard FOR UPDATE`, a.Item.Sale, a.Item.SKU)
		if err != nil {
			return err
		}
		buckets, err := pgx.CollectRows(rows, scanBucket)
		if err != nil {
			return err
		}
		if len(buckets) == 0 {
			return inventory.ErrUnknownSale
		}
		tag, err := tx.Exec(ctx, `INSERT INTO addition (id) VALUES ($1) ON CONFLICT DO NOTHING`, a.ID)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		batch := &pgx.Batch{}
		batch.Queue(`UPDATE sale_item SET total = total + $3 WHERE sale = $1 AND sku = $2`, a.Item.Sale, a.Item.SKU, a.Qty)
		w := newWrites()
		for i, units := range inventory.Split(a.Qty, len(buckets)) {
			if units == 0 {
				continue
			}
			b := buckets[i]
			batch.Queue(`UPDATE bucket SET granted = granted + $4, credit_seq = credit_seq + 1 WHERE sale = $1 AND sku = $2 AND shard = $3`,
				a.Item.Sale, a.Item.SKU, b.ID.Shard, units)
			w.journal = append(w.journal, entry{bucket: b.ID, kind: "grant", granted: units, cause: a.ID})
			w.credits = append(w.credits, inventory.Credit{Bucket: b.ID, Seq: b.CreditSeq + 1, Qty: units})
			credited = append(credited, b.ID)
		}
		w.queue(batch)
		return exec(ctx, tx, batch)
	})
	if errors.Is(err, inventory.ErrUnknownSale) {
		err = inventory.ErrUnknownSale
	}
	return credited, err
}
