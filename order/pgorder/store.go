// Package pgorder keeps carts and orders in PostgreSQL.
package pgorder

import (
	"context"
	"embed"
	"errors"
	"flashsale/audit"
	"flashsale/database/postgres"
	"flashsale/groupcommit"
	"flashsale/id"
	"flashsale/order"
	"flashsale/transport"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations is the schema, for postgres.Migrate.
var Migrations, _ = fs.Sub(files, "migrations")

// Store implements order's contracts on PostgreSQL.
type Store struct {
	postgres.Outbox
	postgres.Places
	pool  *pgxpool.Pool
	carts *groupcommit.Group[order.Cart, struct{}]
	items *groupcommit.Group[addition, added]
}

// New returns the store of a migrated database. Close it when done, before the pool.
func New(pool *pgxpool.Pool) *Store {
	s := &Store{Outbox: postgres.NewOutbox(pool), Places: postgres.NewPlaces(pool), pool: pool}
	s.carts = groupcommit.New(maxGroup, maxQueue, parallel, s.createAll)
	s.items = groupcommit.New(maxGroup, maxQueue, parallel, s.addAll)
	return s
}

// Close finishes what is under way. It may be called twice.
func (s *Store) Close() {
	s.carts.Close()
	s.items.Close()
}

const selectOrders = `SELECT id, user_id, sale, sku, qty, price, total, currency, state, reason, payment, cart, created_at, updated_at, expires_at FROM orders`

func scan(row pgx.CollectableRow) (order.Order, error) {
	var o order.Order
	err := row.Scan(&o.ID, &o.User, &o.Sale, &o.SKU, &o.Quantity, &o.UnitPrice.Amount, &o.Total.Amount, &o.UnitPrice.Currency, &o.State, &o.Reason,
		&o.Payment, &o.Cart, &o.CreatedAt, &o.UpdatedAt, &o.ExpiresAt)
	o.Total.Currency = o.UnitPrice.Currency
	o.CreatedAt, o.UpdatedAt, o.ExpiresAt = o.CreatedAt.UTC(), o.UpdatedAt.UTC(), o.ExpiresAt.UTC()
	return o, err
}

const maxRuns = 8

// Apply implements order.Store: rows locked by id, decided, written with one statement a table. A
// new order that another connection wrote meanwhile is a unique violation, and the group runs again.
func (s *Store) Apply(ctx context.Context, changes []order.Change) ([]order.Changed, error) {
	for attempt := 1; ; attempt++ {
		out, err := s.apply(ctx, changes)
		if err == nil {
			return out, nil
		}
		again := postgres.Conflict(err) || postgres.Code(err) == "23505" // unique_violation
		if !again || attempt == maxRuns {
			return nil, fmt.Errorf("order: apply: %w", err)
		}
	}
}

func (s *Store) apply(ctx context.Context, changes []order.Change) ([]order.Changed, error) {
	out := make([]order.Changed, len(changes))
	err := postgres.InTx(ctx, s.pool, func(tx *postgres.Tx) error {
		ids := make([]id.ID, len(changes))
		for i, c := range changes {
			ids[i] = c.Order.ID
		}
		lock := &pgx.Batch{}
		lock.Queue(selectOrders+` WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE`, ids)
		var found []order.Order
		if err := tx.Send(ctx, lock, func(results pgx.BatchResults) error {
			rows, err := results.Query()
			if err == nil {
				found, err = pgx.CollectRows(rows, scan)
			}
			return err
		}); err != nil {
			return err
		}
		now, created, updated := map[id.ID]order.Order{}, map[id.ID]bool{}, map[id.ID]bool{}
		for _, o := range found {
			now[o.ID] = o
		}
		var outbox []transport.Envelope
		for i, c := range changes {
			c.Order.CreatedAt, c.Order.UpdatedAt = c.Order.CreatedAt.UTC().Truncate(time.Microsecond), c.Order.UpdatedAt.UTC().Truncate(time.Microsecond)
			c.Order.ExpiresAt = c.Order.ExpiresAt.UTC().Truncate(time.Microsecond)
			was, known := now[c.Order.ID]
			o, applied := order.Decide(was, known, c)
			out[i] = order.Changed{Order: o, Applied: applied}
			e, follows := order.Follow(o, c.TraceParent)
			if follows {
				out[i].Event = e
			}
			if !applied {
				continue
			}
			now[o.ID] = o
			if known && !created[o.ID] {
				updated[o.ID] = true
			} else {
				created[o.ID] = true
			}
			if follows {
				outbox = append(outbox, e)
			}
		}
		b := &pgx.Batch{}
		queueInsert(b, now, created)
		queueUpdate(b, now, updated)
		postgres.Enqueue(b, outbox)
		if b.Len() == 0 {
			return nil
		}
		return tx.Commit(ctx, b, nil)
	})
	return out, err
}

func sorted(ids map[id.ID]bool) []id.ID {
	out := make([]id.ID, 0, len(ids))
	for v := range ids {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b id.ID) int { return slices.Compare(a[:], b[:]) })
	return out
}

func queueInsert(b *pgx.Batch, now map[id.ID]order.Order, created map[id.ID]bool) {
	if len(created) == 0 {
		return
	}
	ids := sorted(created)
	n := len(ids)
	var (
		users, sales, pays, carts          = make([]id.ID, n), make([]id.ID, n), make([]id.ID, n), make([]id.ID, n)
		skus, currencies, states, reasons  = make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		qtys                               = make([]int32, n)
		prices, totals                     = make([]int64, n), make([]int64, n)
		createdAts, updatedAts, expiresAts = make([]time.Time, n), make([]time.Time, n), make([]time.Time, n)
		owners, theirs                     []id.ID
	)
	for i, v := range ids {
		o := now[v]
		users[i], sales[i], pays[i], carts[i] = o.User, o.Sale, o.Payment, o.Cart
		skus[i], currencies[i], states[i], reasons[i] = o.SKU, o.UnitPrice.Currency, string(o.State), o.Reason
		qtys[i], prices[i], totals[i] = int32(o.Quantity), o.UnitPrice.Amount, o.Total.Amount
		createdAts[i], updatedAts[i], expiresAts[i] = o.CreatedAt, o.UpdatedAt, o.ExpiresAt
		if !o.Cart.IsZero() {
			theirs, owners = append(theirs, o.Cart), append(owners, o.User)
		}
	}
	b.Queue(`INSERT INTO orders (id, user_id, sale, sku, qty, price, total, currency, state, reason, payment, cart, created_at, updated_at, expires_at)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::int[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::text[],
			$11::uuid[], $12::uuid[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[])`,
		ids, users, sales, skus, qtys, prices, totals, currencies, states, reasons, pays, carts, createdAts, updatedAts, expiresAts)
	if len(theirs) > 0 {
		b.Queue(`UPDATE cart c SET checked_out = true FROM unnest($1::uuid[], $2::uuid[]) AS u (cart, user_id)
			WHERE c.id = u.cart AND c.user_id = u.user_id AND NOT c.checked_out`, theirs, owners)
	}
}

func queueUpdate(b *pgx.Batch, now map[id.ID]order.Order, updated map[id.ID]bool) {
	if len(updated) == 0 {
		return
	}
	ids := sorted(updated)
	n := len(ids)
	states, reasons, pays, ats := make([]string, n), make([]string, n), make([]id.ID, n), make([]time.Time, n)
	for i, v := range ids {
		o := now[v]
		states[i], reasons[i], pays[i], ats[i] = string(o.State), o.Reason, o.Payment, o.UpdatedAt
	}
	b.Queue(`UPDATE orders o SET state = u.state, reason = u.reason, payment = u.payment, updated_at = u.at
		FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::timestamptz[]) AS u (id, state, reason, payment, at) WHERE o.id = u.id`,
		ids, states, reasons, pays, ats)
}

// Find implements order.Store.
func (s *Store) Find(ctx context.Context, oid id.ID) (order.Order, error) {
	rows, err := s.pool.Query(ctx, selectOrders+` WHERE id = $1`, oid)
	if err != nil {
		return order.Order{}, fmt.Errorf("order: find: %w", err)
	}
	o, err := pgx.CollectExactlyOneRow(rows, scan)
	if errors.Is(err, pgx.ErrNoRows) {
		return o, order.ErrNotFound
	}
	if err != nil {
		return o, fmt.Errorf("order: find: %w", err)
	}
	return o, nil
}

// States implements order.Store.
func (s *Store) States(ctx context.Context, orders []id.ID) (map[id.ID]order.State, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, state FROM orders WHERE id = ANY($1::uuid[])`, orders)
	if err != nil {
		return nil, fmt.Errorf("order: states: %w", err)
	}
	states := make(map[id.ID]order.State, len(orders))
	var v id.ID
	var state order.State
	if _, err := pgx.ForEachRow(rows, []any{&v, &state}, func() error { states[v] = state; return nil }); err != nil {
		return nil, fmt.Errorf("order: states: %w", err)
	}
	return states, nil
}

// List implements order.Store.
func (s *Store) List(ctx context.Context, user id.ID, after order.Cursor, limit int) ([]order.Order, error) {
	query, args := selectOrders+` WHERE user_id = $1`, []any{user, max(limit, 0)}
	if (after != order.Cursor{}) {
		query += ` AND (created_at, id) < ($3, $4)`
		args = append(args, after.CreatedAt, after.ID)
	}
	rows, err := s.pool.Query(ctx, query+` ORDER BY created_at DESC, id DESC LIMIT $2`, args...)
	if err != nil {
		return nil, fmt.Errorf("order: list: %w", err)
	}
	out, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("order: list: %w", err)
	}
	return out, nil
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func cart(ctx context.Context, q querier, cid, user id.ID) (order.Cart, error) {
	c := order.Cart{ID: cid, User: user}
	err := q.QueryRow(ctx, `SELECT checked_out, created_at FROM cart WHERE id = $1 AND user_id = $2`, cid, user).Scan(&c.CheckedOut, &c.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, order.ErrNotFound
	}
	if err != nil {
		return c, err
	}
	c.CreatedAt = c.CreatedAt.UTC()
	rows, err := q.Query(ctx, `SELECT sale, sku, qty, price, currency FROM cart_item WHERE cart = $1 ORDER BY line`, cid)
	if err != nil {
		return c, err
	}
	c.Items, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (order.CartItem, error) {
		var i order.CartItem
		err := row.Scan(&i.Sale, &i.SKU, &i.Quantity, &i.UnitPrice.Amount, &i.UnitPrice.Currency)
		return i, err
	})
	return c, err
}

// Cart implements order.Carts.
func (s *Store) Cart(ctx context.Context, cid, user id.ID) (order.Cart, error) {
	c, err := cart(ctx, s.pool, cid, user)
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
	var checks []audit.Check
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var overdue any
		var err error
		if err := tx.QueryRow(ctx, `SELECT now() - make_interval(secs => $1)`, order.ExpiryBound.Seconds()).Scan(&overdue); err != nil {
			return err
		}
		checks, err = order.AuditSQL(func(query string, args []any, into ...any) error {
			return tx.QueryRow(ctx, query, args...).Scan(into...)
		}, overdue)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("order: audit: %w", err)
	}
	return checks, nil
}

// Statement implements order.Auditor.
func (s *Store) Statement(ctx context.Context, line func(order.Line) error) error {
	rows, err := s.pool.Query(ctx, `SELECT id, user_id, state, total, currency, payment FROM orders ORDER BY id`)
	if err != nil {
		return fmt.Errorf("order: statement: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var v order.Line
		if err := rows.Scan(&v.Order, &v.User, &v.State, &v.Total.Amount, &v.Total.Currency, &v.Payment); err != nil {
			return fmt.Errorf("order: statement: %w", err)
		}
		if err := line(v); err != nil {
			return err
		}
	}
	return rows.Err()
}
