package pgorder

import (
	"context"
	"errors"
	"flashsale/database/postgres"
	"flashsale/groupcommit"
	"flashsale/id"
	"flashsale/order"
	"flashsale/transport"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Carts that are made and filled at the same time share transactions, as orders do, and nobody is answered before the
// commit: alone, each would cost half a dozen
// turns between two processes, and a sync.
const (
	maxGroup = 256
	maxQueue = 4096
	parallel = 2 // one group is prepared while the other waits for the disk
)

// addition is a call of Add, and added its answer: err is one of the contract's.
type addition struct {
	cart, user id.ID
	item       order.CartItem
}

type added struct {
	cart order.Cart
	err  error
}

// Create implements order.Carts. What comes at the same time is written together.
func (s *Store) Create(ctx context.Context, c order.Cart) error {
	_, err := s.carts.Do(ctx, c)
	return shed(err, "create cart")
}

// Add implements order.Carts. What comes at the same time is written together.
func (s *Store) Add(ctx context.Context, cid, user id.ID, item order.CartItem) (order.Cart, error) {
	if err := postgres.Storable(item.SKU, item.UnitPrice.Currency); err != nil {
		return order.Cart{}, fmt.Errorf("order: add item: %w", err)
	}
	a, err := s.items.Do(ctx, addition{cid, user, item})
	if err != nil {
		return a.cart, shed(err, "add item")
	}
	return a.cart, a.err
}

func shed(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, groupcommit.ErrFull), errors.Is(err, groupcommit.ErrStopped):
		return fmt.Errorf("order: %s: %w", what, transport.ErrOverloaded) // nothing was written
	}
	return fmt.Errorf("order: %s: %w", what, err)
}

func (s *Store) createAll(ctx context.Context, carts []order.Cart) ([]struct{}, error) {
	n := len(carts)
	ids, users, ats := make([]id.ID, n), make([]id.ID, n), make([]time.Time, n)
	for i, c := range carts {
		ids[i], users[i], ats[i] = c.ID, c.User, c.CreatedAt
	}
	_, err := s.pool.Exec(ctx, `INSERT INTO cart (id, user_id, created_at) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[])`, ids, users, ats)
	return make([]struct{}, n), err
}

// addAll runs a group again that an order's check-out of the same carts was in the way of: that locks them in its own order.
func (s *Store) addAll(ctx context.Context, as []addition) ([]added, error) {
	for attempt := 1; ; attempt++ {
		out, err := s.addOnce(ctx, as)
		if err == nil || !postgres.Conflict(err) || attempt == maxRuns {
			return out, err
		}
	}
}

// addOnce locks the carts of a group in the order of their ids, and adds the items in the order in which they came: of two
// additions to one cart the second sees the first.
func (s *Store) addOnce(ctx context.Context, as []addition) ([]added, error) {
	out := make([]added, len(as))
	err := postgres.InTx(ctx, s.pool, func(tx *postgres.Tx) error {
		ids := make([]id.ID, 0, len(as))
		for _, a := range as {
			ids = append(ids, a.cart)
		}
		slices.SortFunc(ids, func(a, b id.ID) int { return slices.Compare(a[:], b[:]) })
		carts, err := lockCarts(ctx, tx, slices.Compact(ids))
		if err != nil {
			return err
		}
		var lines cartLines
		for i, a := range as {
			c, ok := carts[a.cart]
			if !ok || c.User != a.user {
				out[i] = added{order.Cart{ID: a.cart, User: a.user}, order.ErrNotFound}
				continue
			}
			line, err := c.Merge(a.item)
			if err != nil {
				out[i] = added{*c, err}
				continue
			}
			lines.put(c.ID, line, c.Items[line])
			out[i].cart = *c
			out[i].cart.Items = slices.Clone(c.Items) // the next addition changes them
		}
		return lines.write(ctx, tx)
	})
	return out, err
}

func lockCarts(ctx context.Context, tx *postgres.Tx, ids []id.ID) (map[id.ID]*order.Cart, error) {
	b := &pgx.Batch{}
	b.Queue(`SELECT id, user_id, checked_out, created_at FROM cart WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE`, ids)
	b.Queue(`SELECT cart, sale, sku, qty, price, currency FROM cart_item WHERE cart = ANY($1::uuid[]) ORDER BY cart, line`, ids)
	carts := map[id.ID]*order.Cart{}
	err := tx.Send(ctx, b, func(results pgx.BatchResults) error {
		rows, err := results.Query()
		if err != nil {
			return err
		}
		var c order.Cart
		if _, err := pgx.ForEachRow(rows, []any{&c.ID, &c.User, &c.CheckedOut, &c.CreatedAt}, func() error {
			v := c
			v.CreatedAt = v.CreatedAt.UTC()
			carts[v.ID] = &v
			return nil
		}); err != nil {
			return err
		}
		if rows, err = results.Query(); err != nil {
			return err
		}
		var cid id.ID
		var i order.CartItem
		_, err = pgx.ForEachRow(rows, []any{&cid, &i.Sale, &i.SKU, &i.Quantity, &i.UnitPrice.Amount, &i.UnitPrice.Currency}, func() error {
			carts[cid].Items = append(carts[cid].Items, i)
			return nil
		})
		return err
	})
	return carts, err
}

// cartLines are the lines to write; a line that is changed twice in a group is written as it is at the end.
type cartLines struct {
	at map[lineKey]order.CartItem
}

type lineKey struct {
	cart id.ID
	line int
}

func (l *cartLines) put(cart id.ID, line int, item order.CartItem) {
	if l.at == nil {
		l.at = map[lineKey]order.CartItem{}
	}
	l.at[lineKey{cart, line}] = item
}

func (l *cartLines) write(ctx context.Context, tx *postgres.Tx) error {
	n := len(l.at)
	if n == 0 {
		return nil
	}
	var (
		carts, sales     = make([]id.ID, 0, n), make([]id.ID, 0, n)
		lines, qtys      = make([]int32, 0, n), make([]int32, 0, n)
		skus, currencies = make([]string, 0, n), make([]string, 0, n)
		prices           = make([]int64, 0, n)
	)
	for k, v := range l.at {
		carts, lines, sales, skus = append(carts, k.cart), append(lines, int32(k.line)), append(sales, v.Sale), append(skus, v.SKU)
		qtys, prices, currencies = append(qtys, int32(v.Quantity)), append(prices, v.UnitPrice.Amount), append(currencies, v.UnitPrice.Currency)
	}
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO cart_item (cart, line, sale, sku, qty, price, currency)
		SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::text[], $5::int[], $6::bigint[], $7::text[])
		ON CONFLICT (cart, line) DO UPDATE SET qty = excluded.qty, price = excluded.price, currency = excluded.currency`,
		carts, lines, sales, skus, qtys, prices, currencies)
	return tx.Commit(ctx, b, nil)
}
