// Package sqlitecatalog keeps products and sales in a SQLite file.
package sqlitecatalog

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"flashsale/catalog"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"io/fs"
	"time"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations is the schema, for sqlite.Migrate.
var Migrations, _ = fs.Sub(files, "migrations")

// Store implements catalog's contracts on a SQLite file.
type Store struct {
	sqlite.Outbox
	db    *sqlite.DB
	clock func() time.Time
}

// New returns the store of a migrated file, on this clock.
func New(db *sqlite.DB, clock func() time.Time) *Store {
	return &Store{Outbox: sqlite.NewOutbox(db, clock), db: db, clock: clock}
}

func (s *Store) now() time.Time { return s.clock().UTC().Truncate(time.Microsecond) }

type scanner interface{ Scan(dest ...any) error }

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// each calls f for every row, and closes.
func each(rows *sql.Rows, err error, f func(scanner) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// CreateProduct implements catalog.Products.
func (s *Store) CreateProduct(ctx context.Context, p catalog.Product) error {
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO product (id, sku, name, description, category, price, currency, created_at, search) VALUES (?,?,?,?,?,?,?,?,?)`,
			p.ID[:], p.SKU, p.Name, p.Description, p.Category, p.Price.Amount, p.Price.Currency, sqlite.Micros(p.CreatedAt), p.SearchText())
		return err
	})
	if sqlite.Unique(err) {
		return catalog.ErrSKUTaken
	}
	return named(err, "create product")
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

const selectProducts = `SELECT id, sku, name, description, category, price, currency, created_at FROM product`

func scanProduct(row scanner) (catalog.Product, error) {
	var p catalog.Product
	var pid []byte
	var created int64
	err := row.Scan(&pid, &p.SKU, &p.Name, &p.Description, &p.Category, &p.Price.Amount, &p.Price.Currency, &created)
	if err == nil {
		p.ID, p.CreatedAt = id.ID(pid), sqlite.Time(created)
	}
	return p, err
}

// Product implements catalog.Products.
func (s *Store) Product(ctx context.Context, product id.ID) (catalog.Product, error) {
	p, err := scanProduct(s.db.Read.QueryRowContext(ctx, selectProducts+` WHERE id = ?`, product[:]))
	if errors.Is(err, sql.ErrNoRows) {
		err = catalog.ErrNotFound
	}
	return p, named(err, "product")
}

// List implements catalog.Products.
func (s *Store) List(ctx context.Context, f catalog.Filter) ([]catalog.Product, error) {
	query, args := selectProducts+` WHERE id > ? AND price >= ?`, []any{f.After[:], f.MinPrice}
	if f.MaxPrice > 0 {
		query, args = query+` AND price <= ?`, append(args, f.MaxPrice)
	}
	if f.Category != "" {
		query, args = query+` AND category = ?`, append(args, f.Category)
	}
	for _, w := range f.Words {
		query, args = query+` AND instr(search, ' ' || ?) > 0`, append(args, w)
	}
	out := []catalog.Product{}
	rows, err := s.db.Read.QueryContext(ctx, query+` ORDER BY id LIMIT ?`, append(args, f.Limit)...)
	err = each(rows, err, func(row scanner) error {
		p, err := scanProduct(row)
		out = append(out, p)
		return err
	})
	return out, named(err, "list")
}

const selectSales = `SELECT id, name, status, opens_at, ends_at, per_user_limit, hold_us, revision, created_at FROM sale`

func scanSale(row scanner) (catalog.Sale, error) {
	var v catalog.Sale
	var sid []byte
	var opens, ends, hold, created int64
	err := row.Scan(&sid, &v.Name, &v.Status, &opens, &ends, &v.PerUserLimit, &hold, &v.Revision, &created)
	if err == nil {
		v.ID, v.OpensAt, v.EndsAt, v.CreatedAt = id.ID(sid), sqlite.Time(opens), sqlite.Time(ends), sqlite.Time(created)
		v.HoldFor = time.Duration(hold) * time.Microsecond
	}
	return v, err
}

func items(ctx context.Context, q querier, v *catalog.Sale) error {
	rows, err := q.QueryContext(ctx, `SELECT sku, product, price, currency, stock FROM sale_item WHERE sale = ? ORDER BY sku`, v.ID[:])
	return each(rows, err, func(row scanner) error {
		var i catalog.SaleItem
		var product []byte
		err := row.Scan(&i.SKU, &product, &i.UnitPrice.Amount, &i.UnitPrice.Currency, &i.Stock)
		if err == nil {
			i.Product = id.ID(product)
			v.Items = append(v.Items, i)
		}
		return err
	})
}

func sale(ctx context.Context, q querier, sid id.ID) (catalog.Sale, error) {
	v, err := scanSale(q.QueryRowContext(ctx, selectSales+` WHERE id = ?`, sid[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return v, catalog.ErrNotFound
	}
	if err != nil {
		return v, err
	}
	return v, items(ctx, q, &v)
}

// sales reads several sales with their items, in one snapshot.
func (s *Store) sales(ctx context.Context, query string, args ...any) ([]catalog.Sale, error) {
	tx, err := s.db.Read.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }()
	out := []catalog.Sale{}
	rows, err := tx.QueryContext(ctx, query, args...)
	err = each(rows, err, func(row scanner) error {
		v, err := scanSale(row)
		out = append(out, v)
		return err
	})
	for i := range out {
		if err == nil {
			err = items(ctx, tx, &out[i])
		}
	}
	return out, err
}

// SalesOf implements catalog.Products.
func (s *Store) SalesOf(ctx context.Context, product id.ID) ([]catalog.Sale, error) {
	out, err := s.sales(ctx, selectSales+` WHERE status <> 'ended' AND ends_at > ? AND id IN (SELECT sale FROM sale_item WHERE product = ?)
		ORDER BY ends_at, id LIMIT 10`, sqlite.Micros(s.now()), product[:])
	return out, named(err, "sales of product")
}

// Sales implements catalog.Sales.
func (s *Store) Sales(ctx context.Context, before id.ID, limit int) ([]catalog.Sale, error) {
	query, args := selectSales, []any{}
	if !before.IsZero() {
		query, args = query+` WHERE id < ?`, append(args, before[:])
	}
	out, err := s.sales(ctx, query+` ORDER BY id DESC LIMIT ?`, append(args, limit)...)
	return out, named(err, "sales")
}

// Sale implements catalog.Sales.
func (s *Store) Sale(ctx context.Context, sid id.ID) (catalog.Sale, error) {
	tx, err := s.db.Read.BeginTx(ctx, nil)
	if err != nil {
		return catalog.Sale{}, named(err, "sale")
	}
	defer func() { _ = tx.Rollback() }()
	v, err := sale(ctx, tx, sid)
	return v, named(err, "sale")
}

// CreateSale implements catalog.Sales.
func (s *Store) CreateSale(ctx context.Context, v catalog.Sale) (catalog.Sale, transport.Envelope, error) {
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		known, err := sale(ctx, tx, v.ID)
		if err == nil {
			v = known
			return nil
		}
		if !errors.Is(err, catalog.ErrNotFound) {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO sale (id, name, status, opens_at, ends_at, per_user_limit, hold_us, revision, created_at) VALUES (?,?,?,?,?,?,?,?,?)`,
			v.ID[:], v.Name, string(v.Status), sqlite.Micros(v.OpensAt), sqlite.Micros(v.EndsAt), v.PerUserLimit, v.HoldFor.Microseconds(), v.Revision, sqlite.Micros(v.CreatedAt))
		if err != nil {
			return err
		}
		for _, i := range v.Items {
			done, err := tx.ExecContext(ctx, `INSERT INTO sale_item (sale, sku, product, price, currency, stock) SELECT ?, sku, id, ?, ?, ? FROM product WHERE sku = ?`,
				v.ID[:], i.UnitPrice.Amount, i.UnitPrice.Currency, i.Stock, i.SKU)
			if err != nil {
				return err
			}
			if n, err := done.RowsAffected(); err != nil || n == 0 {
				return errors.Join(err, catalog.ErrUnknownSKU)
			}
		}
		if v, err = sale(ctx, tx, v.ID); err != nil {
			return err
		}
		return sqlite.Enqueue(ctx, tx, s.now(), []transport.Envelope{catalog.ScheduledEvent(v)})
	})
	return v, catalog.ScheduledEvent(v), named(err, "create sale")
}

// SetStatus implements catalog.Sales.
func (s *Store) SetStatus(ctx context.Context, sid id.ID, to catalog.Status) (catalog.Sale, transport.Envelope, error) {
	var v catalog.Sale
	var e transport.Envelope
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		var err error
		if v, err = sale(ctx, tx, sid); err != nil {
			return err
		}
		if !v.Status.May(to) {
			return catalog.ErrIllegalMove
		}
		v.Status = to
		v.Revision++
		if _, err := tx.ExecContext(ctx, `UPDATE sale SET status = ?, revision = ? WHERE id = ?`, string(to), v.Revision, sid[:]); err != nil {
			return err
		}
		e = catalog.StatusEvent(v, s.now())
		return sqlite.Enqueue(ctx, tx, s.now(), []transport.Envelope{e})
	})
	return v, e, named(err, "status")
}

// AddStock implements catalog.Sales.
func (s *Store) AddStock(ctx context.Context, sid id.ID, sku string, addition id.ID, units int64) (catalog.Sale, transport.Envelope, error) {
	var v catalog.Sale
	var e transport.Envelope
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		var err error
		if v, err = sale(ctx, tx, sid); err != nil {
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
		var was, when int64
		err = tx.QueryRowContext(ctx, `SELECT units, at FROM addition WHERE id = ?`, addition[:]).Scan(&was, &when)
		if err == nil { // a repetition says what was said, also of a sale that has ended since
			e = catalog.StockEvent(sid, sku, addition, was, sqlite.Time(when))
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if v.Status == catalog.Ended {
			return catalog.ErrEnded
		}
		now := s.now()
		if _, err := tx.ExecContext(ctx, `INSERT INTO addition (id, units, at) VALUES (?,?,?)`, addition[:], units, sqlite.Micros(now)); err != nil {
			return err
		}
		e = catalog.StockEvent(sid, sku, addition, units, now)
		v.Items[at].Stock += units
		if _, err := tx.ExecContext(ctx, `UPDATE sale_item SET stock = stock + ? WHERE sale = ? AND sku = ?`, units, sid[:], sku); err != nil {
			return err
		}
		return sqlite.Enqueue(ctx, tx, now, []transport.Envelope{e})
	})
	return v, e, named(err, "add stock")
}
