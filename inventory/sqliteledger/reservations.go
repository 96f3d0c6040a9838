package sqliteledger

import (
	"context"
	"database/sql"
	"errors"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"time"
)

const columns = `id, user_id, sale, sku, qty, price, currency, state, reason, payment, cart, fingerprint, created_at, expires_at`

func scan(row interface{ Scan(...any) error }) (reservation.Reservation, error) {
	var r reservation.Reservation
	var rid, user, sale, pay, cart, print []byte
	var created, expires int64
	err := row.Scan(&rid, &user, &sale, &r.SKU, &r.Quantity, &r.UnitPrice.Amount, &r.UnitPrice.Currency, &r.State, &r.Reason,
		&pay, &cart, &print, &created, &expires)
	if err != nil {
		return r, err
	}
	r.ID, r.User, r.Sale, r.Payment, r.Cart = id.ID(rid), id.ID(user), id.ID(sale), id.ID(pay), id.ID(cart)
	r.Fingerprint = [32]byte(print)
	r.CreatedAt, r.ExpiresAt = sqlite.Time(created), sqlite.Time(expires)
	return r, nil
}

func find(ctx context.Context, q querier, rid id.ID) (reservation.Reservation, error) {
	r, err := scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM reservation WHERE id = ?`, rid[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return r, reservation.ErrNotFound
	}
	return r, err
}

func insert(ctx context.Context, tx *sql.Tx, r reservation.Reservation) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO reservation (`+columns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		r.ID[:], r.User[:], r.Sale[:], r.SKU, r.Quantity, r.UnitPrice.Amount, r.UnitPrice.Currency, string(r.State), r.Reason,
		r.Payment[:], r.Cart[:], r.Fingerprint[:], sqlite.Micros(r.CreatedAt), sqlite.Micros(r.ExpiresAt))
	return err
}

// Find implements inventory.Ledger.
func (l *Ledger) Find(ctx context.Context, rid id.ID) (reservation.Reservation, error) {
	r, err := find(ctx, l.db.Read, rid)
	if err != nil && !errors.Is(err, reservation.ErrNotFound) {
		return r, fmt.Errorf("ledger: find: %w", err)
	}
	return r, err
}

// Bound implements inventory.Ledger.
func (l *Ledger) Bound(ctx context.Context, item inventory.ItemID, user id.ID) (int, error) {
	n, err := bound(ctx, l.db.Read, item, user)
	if err != nil {
		return 0, fmt.Errorf("ledger: bound: %w", err)
	}
	return n, nil
}

func bound(ctx context.Context, q querier, item inventory.ItemID, user id.ID) (n int, err error) {
	err = q.QueryRowContext(ctx, `SELECT qty FROM allowance WHERE sale = ? AND sku = ? AND user_id = ?`, item.Sale[:], item.SKU, user[:]).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return n, err
}

// Due implements inventory.Ledger.
func (l *Ledger) Due(ctx context.Context, limit int) ([]id.ID, error) {
	rows, err := l.db.Read.QueryContext(ctx, `SELECT id FROM reservation WHERE state = 'held' AND expires_at <= ? ORDER BY expires_at LIMIT ?`,
		sqlite.Micros(l.now()), limit)
	if err != nil {
		return nil, fmt.Errorf("ledger: due: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var due []id.ID
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			return nil, fmt.Errorf("ledger: due: %w", err)
		}
		due = append(due, id.ID(b))
	}
	return due, rows.Err()
}

// Refuse implements inventory.Ledger.
func (l *Ledger) Refuse(ctx context.Context, refusals []inventory.Refusal) ([]reservation.Reservation, error) {
	var out []reservation.Reservation
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		now := l.now()
		out = make([]reservation.Reservation, 0, len(refusals))
		for _, f := range refusals {
			r, err := find(ctx, tx, f.Request.ID())
			if errors.Is(err, reservation.ErrNotFound) {
				r = reservation.Reservation{
					ID: f.Request.ID(), User: f.Request.User, Sale: f.Request.Sale, SKU: f.Request.SKU, Quantity: f.Request.Quantity,
					State: reservation.Refused, Reason: f.Reason, Cart: f.Request.Cart, Fingerprint: f.Request.Fingerprint(),
					CreatedAt: now, ExpiresAt: now,
				}
				err = insert(ctx, tx, r)
			}
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: refuse: %w", err)
	}
	return out, nil
}

// Move implements inventory.Ledger.
func (l *Ledger) Move(ctx context.Context, moves []inventory.Move) ([]inventory.Moved, error) {
	var out []inventory.Moved
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		out = make([]inventory.Moved, len(moves))
		now := l.now()
		for i, m := range moves {
			a, err := l.move(ctx, tx, m, now)
			if err != nil {
				return err
			}
			if e, ok := inventory.FollowMove(m, a, now); ok {
				a.Event = e
				// A repeated move was announced by the call that made it.
				if a.Applied || a.Err != nil {
					if err := sqlite.Enqueue(ctx, tx, now, []transport.Envelope{e}); err != nil {
						return err
					}
				}
			}
			out[i] = a
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: move: %w", err)
	}
	return out, nil
}

func (l *Ledger) move(ctx context.Context, tx *sql.Tx, m inventory.Move, now time.Time) (inventory.Moved, error) {
	r, err := find(ctx, tx, m.Reservation)
	if errors.Is(err, reservation.ErrNotFound) || err == nil && !m.User.IsZero() && r.User != m.User {
		return inventory.Moved{Err: reservation.ErrNotFound}, nil
	}
	if err != nil {
		return inventory.Moved{}, err
	}
	if verdict, made := m.Judge(r, now); verdict != nil || made {
		return inventory.Moved{Reservation: r, Err: verdict}, nil
	}
	r = m.Apply(r)
	_, err = tx.ExecContext(ctx, `UPDATE reservation SET state = ?, reason = ?, payment = ? WHERE id = ?`,
		string(r.State), r.Reason, r.Payment[:], r.ID[:])
	if err != nil {
		return inventory.Moved{}, err
	}
	a := inventory.Moved{Reservation: r, Applied: true}
	if m.Kind == reservation.MovePay {
		return a, nil
	}
	a.Credited, err = shift(ctx, tx, m, r, now)
	return a, err
}

// part is what a reservation drew from one bucket.
type part struct {
	bucket inventory.BucketID
	qty    int64
}

func legsOf(ctx context.Context, tx *sql.Tx, r reservation.Reservation) ([]part, error) {
	rows, err := tx.QueryContext(ctx, `SELECT shard, sum(qty) FROM leg WHERE reservation = ? AND outcome = 'committed' GROUP BY shard ORDER BY shard`, r.ID[:])
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var parts []part
	for rows.Next() {
		p := part{bucket: inventory.BucketID{Item: inventory.ItemID{Sale: r.Sale, SKU: r.SKU}}}
		if err := rows.Scan(&p.bucket.Shard, &p.qty); err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, rows.Err()
}

// shift moves the units of a reservation in their buckets; units that go back get a credit each.
func shift(ctx context.Context, tx *sql.Tx, m inventory.Move, r reservation.Reservation, now time.Time) ([]inventory.BucketID, error) {
	parts, err := legsOf(ctx, tx, r)
	if err != nil {
		return nil, err
	}
	held, sold, back := m.Deltas()
	var credited []inventory.BucketID
	for _, p := range parts {
		if err := post(ctx, tx, p.bucket, string(m.Kind), 0, held*p.qty, sold*p.qty, r.ID, now); err != nil {
			return nil, err
		}
		if !back {
			continue
		}
		if err := credit(ctx, tx, p.bucket, p.qty, r.User); err != nil {
			return nil, err
		}
		credited = append(credited, p.bucket)
	}
	if back {
		return credited, allow(ctx, tx, r, -r.Quantity)
	}
	return nil, nil
}

// credit appends a return of units with the bucket's next number.
func credit(ctx context.Context, tx *sql.Tx, b inventory.BucketID, qty int64, user id.ID) error {
	var seq int64
	err := tx.QueryRowContext(ctx, `UPDATE bucket SET credit_seq = credit_seq + 1 WHERE sale = ? AND sku = ? AND shard = ? RETURNING credit_seq`,
		b.Item.Sale[:], b.Item.SKU, b.Shard).Scan(&seq)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO credit (sale, sku, shard, seq, qty, user_id) VALUES (?,?,?,?,?,?)`,
		b.Item.Sale[:], b.Item.SKU, b.Shard, seq, qty, user[:])
	return err
}
