package pgledger

import (
	"context"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Steps implements inventory.History. It stops at the first entry that is too young, whatever its
// kind: those behind it must not be passed over.
func (l *Ledger) Steps(ctx context.Context, after int64, age time.Duration, limit int) ([]inventory.Step, error) {
	rows, err := l.pool.Query(ctx, `SELECT id, cause, kind, at <= now() - make_interval(secs => $2) FROM journal WHERE id > $1 ORDER BY id LIMIT $3`,
		after, age.Seconds(), limit)
	if err != nil {
		return nil, fmt.Errorf("ledger: steps: %w", err)
	}
	var steps []inventory.Step
	var s inventory.Step
	var kind string
	var old bool
	open := true
	_, err = pgx.ForEachRow(rows, []any{&s.N, &s.Reservation, &kind, &old}, func() error {
		open = open && old
		if s.State = inventory.Stepped(kind); open {
			steps = append(steps, s)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: steps: %w", err)
	}
	return steps, nil
}

// Rows implements inventory.History.
func (l *Ledger) Rows(ctx context.Context, ids []id.ID) ([]reservation.Reservation, error) {
	rows, err := l.pool.Query(ctx, selectReservations+` WHERE id = ANY($1::uuid[])`, ids)
	if err != nil {
		return nil, fmt.Errorf("ledger: rows: %w", err)
	}
	out, err := pgx.CollectRows(rows, scanReservation)
	if err != nil {
		return nil, fmt.Errorf("ledger: rows: %w", err)
	}
	return out, nil
}
