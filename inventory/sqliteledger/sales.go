package sqliteledger

import (
	"context"
	"database/sql"
	"errors"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/inventory"
	"fmt"
	"time"
)

// terms reads a sale with its items and buckets.
func terms(ctx context.Context, q querier, sale id.ID) (inventory.Sale, error) {
	s := inventory.Sale{ID: sale}
	var opens, ends, hold int64
	err := q.QueryRowContext(ctx, `SELECT status, opens_at, ends_at, per_user_limit, hold_us, revision FROM sale WHERE id = ?`, sale[:]).
		Scan(&s.Status, &opens, &ends, &s.Limit, &hold, &s.Revision)
	if errors.Is(err, sql.ErrNoRows) {
		return s, inventory.ErrUnknownSale
	}
	if err != nil {
		return s, err
	}
	s.OpensAt, s.EndsAt, s.HoldFor = sqlite.Time(opens), sqlite.Time(ends), time.Duration(hold)*time.Microsecond
	rows, err := q.QueryContext(ctx, `SELECT i.sku, i.price, i.currency, i.total, b.shard, b.epoch, b.granted, b.held, b.sold, b.credit_seq
		FROM sale_item i JOIN bucket b ON b.sale = i.sale AND b.sku = i.sku WHERE i.sale = ? ORDER BY i.sku, b.shard`, sale[:])
	if err != nil {
		return s, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var i inventory.Item
		var b inventory.Bucket
		if err := rows.Scan(&i.SKU, &i.UnitPrice.Amount, &i.UnitPrice.Currency, &i.Total,
			&b.ID.Shard, &b.Epoch, &b.Granted, &b.Held, &b.Sold, &b.CreditSeq); err != nil {
			return s, err
		}
		if n := len(s.Items); n == 0 || s.Items[n-1].SKU != i.SKU {
			s.Items = append(s.Items, i)
		}
		b.ID.Item = inventory.ItemID{Sale: sale, SKU: i.SKU}
		last := &s.Items[len(s.Items)-1]
		last.Buckets = append(last.Buckets, b)
	}
	return s, rows.Err()
}

// Sale implements inventory.Sales.
func (l *Ledger) Sale(ctx context.Context, sale id.ID) (inventory.Sale, error) {
	tx, err := l.db.Read.BeginTx(ctx, nil) // one snapshot for both reads
	if err != nil {
		return inventory.Sale{}, fmt.Errorf("ledger: sale: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	s, err := terms(ctx, tx, sale)
	if err != nil && !errors.Is(err, inventory.ErrUnknownSale) {
		return s, fmt.Errorf("ledger: sale: %w", err)
	}
	return s, err
}

// Provision implements inventory.Sales.
func (l *Ledger) Provision(ctx context.Context, p inventory.Provision) error {
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		now, s := l.now(), p.Sale
		done, err := tx.ExecContext(ctx, `INSERT INTO sale (id, status, opens_at, ends_at, per_user_limit, hold_us, revision) VALUES (?,?,?,?,?,?,?) ON CONFLICT DO NOTHING`,
			s.ID[:], string(s.Status), sqlite.Micros(s.OpensAt), sqlite.Micros(s.EndsAt), s.Limit, s.HoldFor.Microseconds(), s.Revision)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return err
		}
		for _, i := range s.Items {
			_, err := tx.ExecContext(ctx, `INSERT INTO sale_item (sale, sku, price, currency, total) VALUES (?,?,?,?,?)`,
				s.ID[:], i.SKU, i.UnitPrice.Amount, i.UnitPrice.Currency, i.Total)
			if err != nil {
				return err
			}
			for shard, units := range inventory.Split(i.Total, p.Shards) {
				b := inventory.BucketID{Item: inventory.ItemID{Sale: s.ID, SKU: i.SKU}, Shard: shard}
				if _, err := tx.ExecContext(ctx, `INSERT INTO bucket (sale, sku, shard, epoch, granted) VALUES (?,?,?,1,0)`, s.ID[:], i.SKU, shard); err != nil {
					return err
				}
				if err := post(ctx, tx, b, "grant", units, 0, 0, s.ID, now); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ledger: provision: %w", err)
	}
	return nil
}

// SetStatus implements inventory.Sales.
func (l *Ledger) SetStatus(ctx context.Context, s inventory.Sale) error {
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		var ended int64
		if s.Status == inventory.Ended {
			ended = sqlite.Micros(l.now())
		}
		if _, err := tx.ExecContext(ctx, `UPDATE sale SET status = ?, opens_at = ?, ends_at = ?, revision = ?, ended_at = ? WHERE id = ? AND revision < ?`,
			string(s.Status), sqlite.Micros(s.OpensAt), sqlite.Micros(s.EndsAt), s.Revision, ended, s.ID[:], s.Revision); err != nil {
			return err
		}
		var one int
		return tx.QueryRowContext(ctx, `SELECT 1 FROM sale WHERE id = ?`, s.ID[:]).Scan(&one)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return inventory.ErrUnknownSale
	}
	if err != nil {
		return fmt.Errorf("ledger: status: %w", err)
	}
	return nil
}

// AddStock implements inventory.Sales.
func (l *Ledger) AddStock(ctx context.Context, a inventory.Addition) ([]inventory.BucketID, error) {
	var credited []inventory.BucketID
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		credited = nil
		now := l.now()
		var shards int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM bucket WHERE sale = ? AND sku = ?`, a.Item.Sale[:], a.Item.SKU).Scan(&shards)
		if err != nil {
			return err
		}
		if shards == 0 {
			return inventory.ErrUnknownSale
		}
		done, err := tx.ExecContext(ctx, `INSERT INTO addition (id, at) VALUES (?,?) ON CONFLICT DO NOTHING`, a.ID[:], sqlite.Micros(now))
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE sale_item SET total = total + ? WHERE sale = ? AND sku = ?`, a.Qty, a.Item.Sale[:], a.Item.SKU); err != nil {
			return err
		}
		for shard, units := range inventory.Split(a.Qty, shards) {
			if units == 0 {
				continue
			}
			b := inventory.BucketID{Item: a.Item, Shard: shard}
			if err := post(ctx, tx, b, "grant", units, 0, 0, a.ID, now); err != nil {
				return err
			}
			if err := credit(ctx, tx, b, units, id.ID{}); err != nil {
				return err
			}
			credited = append(credited, b)
		}
		return nil
	})
	if err != nil && !errors.Is(err, inventory.ErrUnknownSale) {
		err = fmt.Errorf("ledger: add stock: %w", err)
	}
	return credited, err
}
