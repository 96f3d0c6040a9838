package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Places is the table of a service's database that says how far its sweeps have come. The service's
// migrations create it:
//
//	CREATE TABLE place (sweep text PRIMARY KEY, upto bigint NOT NULL, leased_until timestamptz NOT NULL);
type Places struct{ pool *pgxpool.Pool }

// NewPlaces returns the places of the database.
func NewPlaces(pool *pgxpool.Pool) Places { return Places{pool} }

// Place implements transport.Places.
func (p Places) Place(ctx context.Context, sweep string, hold time.Duration) (upto int64, mine bool, err error) {
	err = p.pool.QueryRow(ctx, `INSERT INTO place AS p (sweep, upto, leased_until) VALUES ($1, 0, now() + make_interval(secs => $2))
		ON CONFLICT (sweep) DO UPDATE SET leased_until = excluded.leased_until WHERE p.leased_until <= now() RETURNING upto`, sweep, hold.Seconds()).Scan(&upto)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("place of %s: %w", sweep, err)
	}
	return upto, true, nil
}

// SetPlace implements transport.Places.
func (p Places) SetPlace(ctx context.Context, sweep string, upto int64) error {
	_, err := p.pool.Exec(ctx, `INSERT INTO place (sweep, upto, leased_until) VALUES ($1, $2, now())
		ON CONFLICT (sweep) DO UPDATE SET upto = excluded.upto, leased_until = excluded.leased_until`, sweep, upto)
	if err != nil {
		return fmt.Errorf("place of %s: %w", sweep, err)
	}
	return nil
}
