// Package sqliteorder keeps carts and orders in a SQLite file.
package sqliteorder

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"flashsale/audit"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/order"
	"flashsale/transport"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations is the schema, for sqlite.Migrate.
var Migrations, _ = fs.Sub(files, "migrations")

// Store implements order's contracts on a SQLite file.
type Store struct {
	sqlite.Outbox
	sqlite.Places
	db    *sqlite.DB
	clock func() time.Time
}

// New returns the store of a migrated file, on this clock.
func New(db *sqlite.DB, clock func() time.Time) *Store {
	return &Store{Outbox: sqlite.NewOutbox(db, clock), Places: sqlite.NewPlaces(db, clock), db: db, clock: clock}
}

const columns = `id, user_id, sale, sku, qty, price, total, currency, state, reason, payment, cart, created_at, updated_at, expires_at`

func scan(row interface{ Scan(...any) error }) (order.Order, error) {
	var o order.Order
	var oid, user, sale, pay, cart []byte
	var created, updated, expires int64
	err := row.Scan(&oid, &user, &sale, &o.SKU, &o.Quantity, &o.UnitPrice.Amount, &o.Total.Amount, &o.UnitPrice.Currency, &o.State, &o.Reason,
		&pay, &cart, &created, &updated, &expires)
	if err != nil {
		return o, err
	}
	o.ID, o.User, o.Sale, o.Payment, o.Cart = id.ID(oid), id.ID(user), id.ID(sale), id.ID(pay), id.ID(cart)
	o.Total.Currency = o.UnitPrice.Currency
	o.CreatedAt, o.UpdatedAt, o.ExpiresAt = sqlite.Time(created), sqlite.Time(updated), sqlite.Time(expires)
	return o, nil
}

// Apply implements order.Store.
func (s *Store) Apply(ctx context.Context, changes []order.Change) ([]order.Changed, error) {
	out := make([]order.Changed, len(changes))
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		for i, c := range changes {
			a, err := s.apply(ctx, tx, c)
			if err != nil {
				return err
			}
			out[i] = a
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("order: apply: %w", err)
	}
	return out, nil
}

func (s *Store) apply(ctx context.Context, tx *sql.Tx, c order.Change) (order.Changed, error) {
	c.Order.CreatedAt, c.Order.UpdatedAt = c.Order.CreatedAt.UTC().Truncate(time.Microsecond), c.Order.UpdatedAt.UTC().Truncate(time.Microsecond)
	c.Order.ExpiresAt = c.Order.ExpiresAt.UTC().Truncate(time.Microsecond)
	now, err := scan(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM orders WHERE id = ?`, c.Order.ID[:]))
	known := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return order.Changed{}, err
	}
	o, applied := order.Decide(now, known, c)
	a := order.Changed{Order: o, Applied: applied}
	e, follows := order.Follow(o, c.TraceParent)
	if follows {
		a.Event = e
	}
	if !applied {
		return a, nil
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO orders (`+columns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
		ON CONFLICT (id) DO UPDATE SET state = excluded.state, reason = excluded.reason, payment = excluded.payment, updated_at = excluded.updated_at`,
		o.ID[:], o.User[:], o.Sale[:], o.SKU, o.Quantity, o.UnitPrice.Amount, o.Total.Amount, o.UnitPrice.Currency, string(o.State), o.Reason,
		o.Payment[:], o.Cart[:], sqlite.Micros(o.CreatedAt), sqlite.Micros(o.UpdatedAt), sqlite.Micros(o.ExpiresAt))
	if err != nil {
		return a, err
	}
	if !known && !o.Cart.IsZero() {
		if _, err := tx.ExecContext(ctx, `UPDATE cart SET checked_out = 1 WHERE id = ? AND user_id = ?`, o.Cart[:], o.User[:]); err != nil {
			return a, err
		}
	}
	if follows {
		return a, sqlite.Enqueue(ctx, tx, s.clock(), []transport.Envelope{e})
	}
	return a, nil
}

// Find implements order.Store.
func (s *Store) Find(ctx context.Context, oid id.ID) (order.Order, error) {
	o, err := scan(s.db.Read.QueryRowContext(ctx, `SELECT `+columns+` FROM orders WHERE id = ?`, oid[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return o, order.ErrNotFound
	}
	if err != nil {
		return o, fmt.Errorf("order: find: %w", err)
	}
	return o, nil
}

// States implements order.Store.
func (s *Store) States(ctx context.Context, orders []id.ID) (map[id.ID]order.State, error) {
	states := make(map[id.ID]order.State, len(orders))
	for part := range slices.Chunk(orders, 500) {
		args := make([]any, len(part))
		for i, v := range part {
			args[i] = v[:]
		}
		err := func() error {
			rows, err := s.db.Read.QueryContext(ctx, `SELECT id, state FROM orders WHERE id IN (`+strings.TrimSuffix(strings.Repeat("?,", len(part)), ",")+`)`, args...)
			if err != nil {
				return err
			}
			defer func() { _ = rows.Close() }()
			for rows.Next() {
				var v []byte
				var state order.State
				if err := rows.Scan(&v, &state); err != nil {
					return err
				}
				states[id.ID(v)] = state
			}
			return rows.Err()
		}()
		if err != nil {
			return nil, fmt.Errorf("order: states: %w", err)
		}
	}
	return states, nil
}

// List implements order.Store.
func (s *Store) List(ctx context.Context, user id.ID, after order.Cursor, limit int) ([]order.Order, error) {
	query, args := `SELECT `+columns+` FROM orders WHERE user_id = ?`, []any{user[:]}
	if (after != order.Cursor{}) {
		query += ` AND (created_at, id) < (?, ?)`
		args = append(args, sqlite.Micros(after.CreatedAt), after.ID[:])
	}
	rows, err := s.db.Read.QueryContext(ctx, query+` ORDER BY created_at DESC, id DESC LIMIT ?`, append(args, max(limit, 0))...) // a negative LIMIT is none at all
	if err != nil {
		return nil, fmt.Errorf("order: list: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []order.Order
	for rows.Next() {
		o, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("order: list: %w", err)
		}
		out = append(out, o)
	}
	return out, rows.Err()
}

// Create implements order.Carts.
func (s *Store) Create(ctx context.Context, c order.Cart) error {
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO cart (id, user_id, created_at) VALUES (?,?,?)`, c.ID[:], c.User[:], sqlite.Micros(c.CreatedAt))
		return err
	})
	if err != nil {
		return fmt.Errorf("order: create cart: %w", err)
	}
	return nil
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func cart(ctx context.Context, q querier, cid, user id.ID) (order.Cart, error) {
	c := order.Cart{ID: cid, User: user}
	var created int64
	err := q.QueryRowContext(ctx, `SELECT checked_out, created_at FROM cart WHERE id = ? AND user_id = ?`, cid[:], user[:]).Scan(&c.CheckedOut, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return c, order.ErrNotFound
	}
	if err != nil {
		return c, err
	}
	c.CreatedAt = sqlite.Time(created)
	rows, err := q.QueryContext(ctx, `SELECT sale, sku, qty, price, currency FROM cart_item WHERE cart = ? ORDER BY line`, cid[:])
	if err != nil {
		return c, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var i order.CartItem
		var sale []byte
		if err := rows.Scan(&sale, &i.SKU, &i.Quantity, &i.UnitPrice.Amount, &i.UnitPrice.Currency); err != nil {
			return c, err
		}
		i.Sale = id.ID(sale)
		c.Items = append(c.Items, i)
	}
	return c, rows.Err()
}

// Add implements order.Carts.
func (s *Store) Add(ctx context.Context, cid, user id.ID, item order.CartItem) (order.Cart, error) {
	var c order.Cart
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		var err error
		if c, err = cart(ctx, tx, cid, user); err != nil {
			return err
		}
		line, err := c.Merge(item)
		if err != nil {
			return err
		}
		v := c.Items[line]
		_, err = tx.ExecContext(ctx, `INSERT INTO cart_item (cart, line, sale, sku, qty, price, currency) VALUES (?,?,?,?,?,?,?)
			ON CONFLICT (cart, line) DO UPDATE SET qty = excluded.qty, price = excluded.price, currency = excluded.currency`,
			cid[:], line, v.Sale[:], v.SKU, v.Quantity, v.UnitPrice.Amount, v.UnitPrice.Currency)
		return err
	})
	return c, own(err, "add item")
}

// Cart implements order.Carts.
func (s *Store) Cart(ctx context.Context, cid, user id.ID) (order.Cart, error) {
	c, err := cart(ctx, s.db.Read, cid, user)
	return c, own(err, "cart")
}

// own passes the contract's errors on and names the operation in others.
func own(err error, what string) error {
	for _, known := range []error{order.ErrNotFound, order.ErrCheckedOut, order.ErrCartFull, order.ErrQuantity} {
		if errors.Is(err, known) {
			return known
		}
	}
	if err != nil {
		return fmt.Errorf("order: %s: %w", what, err)
	}
	return nil
}

// Audit implements order.Auditor.
func (s *Store) Audit(ctx context.Context) ([]audit.Check, error) {
	tx, err := s.db.Read.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("order: audit: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	return order.AuditSQL(func(query string, args []any, into ...any) error {
		return tx.QueryRowContext(ctx, query, args...).Scan(into...)
	}, sqlite.Micros(s.clock().Add(-order.ExpiryBound)))
}

// Statement implements order.Auditor.
func (s *Store) Statement(ctx context.Context, line func(order.Line) error) error {
	rows, err := s.db.Read.QueryContext(ctx, `SELECT id, user_id, state, total, currency, payment FROM orders ORDER BY id`)
	if err != nil {
		return fmt.Errorf("order: statement: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var v order.Line
		var oid, user, pay []byte
		if err := rows.Scan(&oid, &user, &v.State, &v.Total.Amount, &v.Total.Currency, &pay); err != nil {
			return fmt.Errorf("order: statement: %w", err)
		}
		v.Order, v.User, v.Payment = id.ID(oid), id.ID(user), id.ID(pay)
		if err := line(v); err != nil {
			return err
		}
	}
	return rows.Err()
}
