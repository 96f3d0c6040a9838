package sqliteledger

import (
	"context"
	"errors"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"fmt"
	"time"
)

// Steps implements inventory.History. One writer makes the numbers rise with the time.
func (l *Ledger) Steps(ctx context.Context, after int64, age time.Duration, limit int) ([]inventory.Step, error) {
	rows, err := l.db.Read.QueryContext(ctx, `SELECT id, cause, kind FROM journal WHERE id > ? AND at <= ? ORDER BY id LIMIT ?`,
		after, sqlite.Micros(l.now().Add(-age)), limit)
	if err != nil {
		return nil, fmt.Errorf("ledger: steps: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var steps []inventory.Step
	for rows.Next() {
		var s inventory.Step
		var cause []byte
		var kind string
		if err := rows.Scan(&s.N, &cause, &kind); err != nil {
			return nil, fmt.Errorf("ledger: steps: %w", err)
		}
		s.Reservation, s.State = id.ID(cause), inventory.Stepped(kind)
		steps = append(steps, s)
	}
	return steps, rows.Err()
}

// Rows implements inventory.History.
func (l *Ledger) Rows(ctx context.Context, ids []id.ID) ([]reservation.Reservation, error) {
	var out []reservation.Reservation
	for _, v := range ids {
		r, err := find(ctx, l.db.Read, v)
		switch {
		case err == nil:
			out = append(out, r)
		case !errors.Is(err, reservation.ErrNotFound):
			return nil, fmt.Errorf("ledger: rows: %w", err)
		}
	}
	return out, nil
}
