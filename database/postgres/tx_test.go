package postgres_test

import (
	"context"
	"errors"
	"flashsale/database/postgres"
	"flashsale/testenv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestInTx: what is sent with Commit is there with everything before it, and nothing is after any error; the pool's one
// connection is fit for the next transaction.
func TestInTx(t *testing.T) {
	t.Parallel()
	pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 1, time.Second)
	must(t, err)
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), `CREATE TABLE entry (n int PRIMARY KEY)`)
	must(t, err)
	batch := func(queries ...string) *pgx.Batch {
		b := &pgx.Batch{}
		for _, q := range queries {
			b.Queue(q)
		}
		return b
	}
	undo := errors.New("undo")
	seen := func(ctx context.Context, tx *postgres.Tx, insert string, want int) error {
		return tx.Send(ctx, batch(insert, `SELECT count(*) FROM entry`), func(r pgx.BatchResults) error {
			if _, err := r.Exec(); err != nil {
				return err
			}
			var n int
			if err := r.QueryRow().Scan(&n); err != nil || n != want {
				t.Errorf("in the transaction there are %d, want %d: %v", n, want, err)
			}
			return nil
		})
	}
	ended, end := context.WithCancel(t.Context())
	for _, c := range []struct {
		name string
		f    func(tx *postgres.Tx) error
		err  bool
		want int
	}{
		{"two batches", func(tx *postgres.Tx) error {
			if err := seen(t.Context(), tx, `INSERT INTO entry VALUES (1)`, 1); err != nil {
				return err
			}
			return tx.Commit(t.Context(), batch(`INSERT INTO entry VALUES (2)`), nil)
		}, false, 2},
		{"one batch", func(tx *postgres.Tx) error { return tx.Commit(t.Context(), batch(`INSERT INTO entry VALUES (3)`), nil) }, false, 3},
		{"an empty commit", func(tx *postgres.Tx) error {
			if err := seen(t.Context(), tx, `INSERT INTO entry VALUES (4)`, 4); err != nil {
				return err
			}
			return tx.Commit(t.Context(), batch(), nil)
		}, false, 4},
		{"nothing", func(*postgres.Tx) error { return nil }, false, 4},
		{"no commit", func(tx *postgres.Tx) error { return seen(t.Context(), tx, `INSERT INTO entry VALUES (5)`, 5) }, false, 4},
		{"an error between", func(tx *postgres.Tx) error {
			return errors.Join(seen(t.Context(), tx, `INSERT INTO entry VALUES (5)`, 5), undo)
		}, true, 4},
		{"an error of the last batch", func(tx *postgres.Tx) error {
			if err := seen(t.Context(), tx, `INSERT INTO entry VALUES (5)`, 5); err != nil {
				return err
			}
			return tx.Commit(t.Context(), batch(`INSERT INTO entry VALUES (6)`, `INSERT INTO entry VALUES (1)`, `INSERT INTO entry VALUES (7)`), nil)
		}, true, 4},
		{"an error of the only batch", func(tx *postgres.Tx) error {
			return tx.Commit(t.Context(), batch(`INSERT INTO entry VALUES (6)`, `SELECT 1/0`), nil)
		}, true, 4},
		{"a caller who has gone", func(tx *postgres.Tx) error {
			err := seen(ended, tx, `INSERT INTO entry VALUES (5)`, 5)
			end()
			return errors.Join(err, tx.Commit(ended, batch(`INSERT INTO entry VALUES (6)`), nil))
		}, true, 4},
	} {
		if err := postgres.InTx(t.Context(), pool, c.f); (err != nil) != c.err {
			t.Errorf("%s: %v", c.name, err)
		}
		var n int
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM entry`).Scan(&n); err != nil || n != c.want {
			t.Errorf("%s: %d entries, want %d: %v", c.name, n, c.want, err)
		}
	}
}
