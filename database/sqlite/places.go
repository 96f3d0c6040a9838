package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Places is the table of a service's file that says how far its sweeps have come. The service's
// migrations create it:
//
//	CREATE TABLE place (sweep text PRIMARY KEY, upto integer NOT NULL, leased_until integer NOT NULL) WITHOUT ROWID;
type Places struct {
	db    *DB
	clock func() time.Time
}

// NewPlaces returns the places of the file, on this clock.
func NewPlaces(db *DB, clock func() time.Time) Places { return Places{db, clock} }

// Place implements transport.Places.
func (p Places) Place(ctx context.Context, sweep string, hold time.Duration) (upto int64, mine bool, err error) {
	now := p.clock()
	err = p.db.Tx(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO place AS p (sweep, upto, leased_until) VALUES (?, 0, ?)
			ON CONFLICT (sweep) DO UPDATE SET leased_until = excluded.leased_until WHERE p.leased_until <= ? RETURNING upto`,
			sweep, Micros(now.Add(hold)), Micros(now)).Scan(&upto)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("place of %s: %w", sweep, err)
	}
	return upto, true, nil
}

// SetPlace implements transport.Places.
func (p Places) SetPlace(ctx context.Context, sweep string, upto int64) error {
	err := p.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO place (sweep, upto, leased_until) VALUES (?, ?, ?)
			ON CONFLICT (sweep) DO UPDATE SET upto = excluded.upto, leased_until = excluded.leased_until`, sweep, upto, Micros(p.clock()))
		return err
	})
	if err != nil {
		return fmt.Errorf("place of %s: %w", sweep, err)
	}
	return nil
}
