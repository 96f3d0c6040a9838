// Package pgcatalog keeps products and sales in PostgreSQL.
package pgcatalog

import (
	"context"
	"embed"
	"errors"
	"flashsale/catalog"
	"flashsale/database/postgres"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations is the schema, for postgres.Migrate.
var Migrations, _ = fs.Sub(files, "migrations")

// Store implements catalog's contracts on PostgreSQL.
type Store struct {
	postgres.Outbox
	pool *pgxpool.Pool
}

// New returns the store of a migrated database.
func New(pool *pgxpool.Pool) *Store { return &Store{Outbox: postgres.NewOutbox(pool), pool: pool} }

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func list[T any](ctx context.Context, q querier, scan pgx.RowToFunc[T], query string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// named passes the contract's errors on and names the operation in others.
func named(err error, what string) error {
	for _, known := range []error{catalog.ErrNotFound, catalog.ErrIllegalMove, catalog.ErrUnknownSKU, catalog.ErrEnded} {
		if errors.Is(err, known) {
			return known
		}
	}
	if err != nil {
		return fmt.Errorf("catalog: %s: %w", what, err)
	}
	return nil
}

// CreateProduct implements catalog.Products.
func (s *Store) CreateProduct(ctx context.Context, p catalog.Product) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO product (id, sku, name, description, category, price, currency, created_at, search) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9)`,
		p.ID, p.SKU, p.Name, p.Description, p.Category, p.Price.Amount, p.Price.Currency, p.CreatedAt, p.SearchText())
	if postgres.Constraint(err) == "product_sku" {
		return catalog.ErrSKUTaken
	}
	return named(err, "create product")
}

const selectProducts = `SELECT id, sku, name, description, category, price, currency, created_at FROM product`

func scanProduct(row pgx.CollectableRow) (catalog.Product, error) {
	var p catalog.Product
	err := row.Scan(&p.ID, &p.SKU, &p.Name, &p.Description, &p.Category, &p.Price.Amount, &p.Price.Currency, &p.CreatedAt)
	p.CreatedAt = p.CreatedAt.UTC()
	return p, err
}

// Product implements catalog.Products.
func (s *Store) Product(ctx context.Context, product id.ID) (catalog.Product, error) {
	ps, err := list(ctx, s.pool, scanProduct, selectProducts+` WHERE id = $1`, product)
	if err == nil && len(ps) == 0 {
		err = catalog.ErrNotFound
	}
	if err != nil {
		return catalog.Product{}, named(err, "product")
	}
	return ps[0], nil
}

// List implements catalog.Products.
func (s *Store) List(ctx context.Context, f catalog.Filter) ([]catalog.Product, error) {
	words := append([]string{}, f.Words...) // never NULL
	out, err := list(ctx, s.pool, scanProduct, selectProducts+` WHERE id > $1 AND price >= $2 AND ($3::bigint = 0 OR price <= $3) AND ($4 = '' OR category = $4)
		AND NOT EXISTS (SELECT FROM unnest($5::text[]) AS w WHERE strpos(search, ' ' || w) = 0) ORDER BY id LIMIT $6`,
		f.After, f.MinPrice, f.MaxPrice, f.Category, words, f.Limit)
	return out, named(err, "list")
}

const selectSales = `SELECT id, name, status, opens_at, ends_at, per_user_limit, hold_us, revision, created_at FROM sale`

func scanSale(row pgx.CollectableRow) (catalog.Sale, error) {
	var v catalog.Sale
	var hold int64
	err := row.Scan(&v.ID, &v.Name, &v.Status, &v.OpensAt, &v.EndsAt, &v.PerUserLimit, &hold, &v.Revision, &v.CreatedAt)
	v.OpensAt, v.EndsAt, v.CreatedAt, v.HoldFor = v.OpensAt.UTC(), v.EndsAt.UTC(), v.CreatedAt.UTC(), time.Duration(hold)*time.Microsecond
	return v, err
}

// sales reads sales with their items.
func sales(ctx context.Context, q querier, query string, args ...any) ([]catalog.Sale, error) {
	out, err := list(ctx, q, scanSale, query, args...)
	if err != nil || len(out) == 0 {
		return out, err
	}
	ids := make([]id.ID, len(out))
	at := map[id.ID]*catalog.Sale{}
	for i := range out {
		ids[i], at[out[i].ID] = out[i].ID, &out[i]
	}
	_, err = list(ctx, q, func(row pgx.CollectableRow) (struct{}, error) {
		var sale id.ID
		var i catalog.SaleItem
		err := row.Scan(&sale, &i.SKU, &i.Product, &i.UnitPrice.Amount, &i.UnitPrice.Currency, &i.Stock)
		if err == nil {
			at[sale].Items = append(at[sale].Items, i)
		}
		return struct{}{}, err
	}, `SELECT sale, sku, product, price, currency, stock FROM sale_item WHERE sale = ANY($1::uuid[]) ORDER BY sku`, ids)
	return out, err
}

func sale(ctx context.Context, q querier, sid id.ID, lock string) (catalog.Sale, error) {
	vs, err := sales(ctx, q, selectSales+` WHERE id = $1`+lock, sid)
	if err == nil && len(vs) == 0 {
		err = catalog.ErrNotFound
	}
	if err != nil {
		return catalog.Sale{}, err
	}
	return vs[0], nil
}

// SalesOf implements catalog.Products.
func (s *Store) SalesOf(ctx context.Context, product id.ID) ([]catalog.Sale, error) {
	out, err := sales(ctx, s.pool, selectSales+` WHERE status <> 'ended' AND ends_at > now() AND id IN (SELECT sale FROM sale_item WHERE product = $1)
		ORDER BY ends_at, id LIMIT 10`, product)
	return out, named(err, "sales of product")
}

// Sales implements catalog.Sales.
func (s *Store) Sales(ctx context.Context, before id.ID, limit int) ([]catalog.Sale, error) {
	query, args := selectSales, []any{limit}
	if !before.IsZero() {
		query, args = query+` WHERE id < $2`, append(args, before)
	}
	out, err := sales(ctx, s.pool, query+` ORDER BY id DESC LIMIT $1`, args...)
	return out, named(err, "sales")
}

// Sale implements catalog.Sales.
func (s *Store) Sale(ctx context.Context, sid id.ID) (catalog.Sale, error) {
	v, err := sale(ctx, s.pool, sid, "")
	return v, named(err, "sale")
}

func enqueue(ctx context.Context, tx pgx.Tx, e transport.Envelope) error {
	b := &pgx.Batch{}
	postgres.Enqueue(b, []transport.Envelope{e})
	return tx.SendBatch(ctx, b).Close()
}

// CreateSale implements catalog.Sales.
func (s *Store) CreateSale(ctx context.Context, v catalog.Sale) (catalog.Sale, transport.Envelope, error) {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO sale (id, name, status, opens_at, ends_at, per_user_limit, hold_us, revision, created_at)
			VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9) ON CONFLICT DO NOTHING`,
			v.ID, v.Name, string(v.Status), v.OpensAt, v.EndsAt, v.PerUserLimit, v.HoldFor.Microseconds(), v.Revision, v.CreatedAt)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			v, err = sale(ctx, tx, v.ID, "")
			return err
		}
		n := len(v.Items)
		skus, currencies, prices, stocks := make([]string, n), make([]string, n), make([]int64, n), make([]int64, n)
		for i, item := range v.Items {
			skus[i], currencies[i], prices[i], stocks[i] = item.SKU, item.UnitPrice.Currency, item.UnitPrice.Amount, item.Stock
		}
		tag, err = tx.Exec(ctx, `INSERT INTO sale_item (sale, sku, product, price, currency, stock) SELECT $1, p.sku, p.id, u.price, u.currency, u.stock
			FROM unnest($2::text[], $3::bigint[], $4::text[], $5::bigint[]) AS u (sku, price, currency, stock) JOIN product p ON p.sku = u.sku`,
			v.ID, skus, prices, currencies, stocks)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != int64(n) {
			return catalog.ErrUnknownSKU
		}
		if v, err = sale(ctx, tx, v.ID, ""); err != nil {
			return err
		}
		return enqueue(ctx, tx, catalog.ScheduledEvent(v))
	})
	return v, catalog.ScheduledEvent(v), named(err, "create sale")
}

// SetStatus implements catalog.Sales.
func (s *Store) SetStatus(ctx context.Context, sid id.ID, to catalog.Status) (catalog.Sale, transport.Envelope, error) {
	var v catalog.Sale
	var e transport.Envelope
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var err error
		if v, err = sale(ctx, tx, sid, ` FOR UPDATE`); err != nil {
			return err
		}
		if !v.Status.May(to) {
			return catalog.ErrIllegalMove
		}
		v.Status = to
		v.Revision++
		var now time.Time
		if err := tx.QueryRow(ctx, `UPDATE sale SET status = $2, revision = $3 WHERE id = $1 RETURNING now()`, sid, string(to), v.Revision).Scan(&now); err != nil {
			return err
		}
		e = catalog.StatusEvent(v, now)
		return enqueue(ctx, tx, e)
	})
	return v, e, named(err, "status")
}

// AddStock implements catalog.Sales.
func (s *Store) AddStock(ctx context.Context, sid id.ID, sku string, addition id.ID, units int64) (catalog.Sale, transport.Envelope, error) {
	var v catalog.Sale
	var e transport.Envelope
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var err error
		if v, err = sale(ctx, tx, sid, ` FOR UPDATE`); err != nil {
			return err
		}
		at := -1
		for i := range v.Items {
			if v.Items[i].SKU == sku {
				at = i
			}
		}
		if at < 0 {
			return catalog.ErrNotFound
		}
		var was int64
		var when time.Time
		err = tx.QueryRow(ctx, `SELECT units, at FROM addition WHERE id = $1`, addition).Scan(&was, &when)
		if err == nil { // a repetition says what was said, also of a sale that has ended since
			e = catalog.StockEvent(sid, sku, addition, was, when)
			return nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if v.Status == catalog.Ended {
			return catalog.ErrEnded
		}
		if err := tx.QueryRow(ctx, `INSERT INTO addition (id, units) VALUES ($1, $2) RETURNING at`, addition, units).Scan(&when); err != nil {
			return err
		}
		e = catalog.StockEvent(sid, sku, addition, units, when)
		v.Items[at].Stock += units
		if _, err := tx.Exec(ctx, `UPDATE sale_item SET stock = stock + $3 WHERE sale = $1 AND sku = $2`, sid, sku, units); err != nil {
			return err
		}
		return enqueue(ctx, tx, e)
	})
	return v, e, named(err, "add stock")
}
