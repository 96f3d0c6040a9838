package postgres_test

import (
	"errors"
	"flashsale/database/databasetest"
	"flashsale/database/postgres"
	"flashsale/testenv"
	"flashsale/transport"
	"io/fs"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const outboxTable = `-- +goose Up
CREATE TABLE outbox (
    id uuid PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject uuid NOT NULL,
    at timestamptz NOT NULL, trace text NOT NULL, data bytea NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(), leased_until timestamptz
);
CREATE INDEX outbox_written_at ON outbox (written_at);
-- +goose Down
DROP TABLE outbox;
`

// migrations are files numbered from 1.
func migrations(sqls ...string) fs.FS {
	files := fstest.MapFS{}
	for n, sql := range sqls {
		files["0000"+string(rune('1'+n))+"_step.sql"] = &fstest.MapFile{Data: []byte(sql)}
	}
	return files
}

func open(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 8, time.Second)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

func TestOutbox(t *testing.T) {
	t.Parallel()
	undo := errors.New("undo")
	databasetest.ExerciseOutbox(t, func(t *testing.T) databasetest.OutboxUnderTest {
		pool := open(t)
		must(t, postgres.Migrate(t.Context(), pool, migrations(outboxTable)))
		return databasetest.OutboxUnderTest{
			Outbox: postgres.NewOutbox(pool),
			Enqueue: func(t *testing.T, commit bool, es ...transport.Envelope) {
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					var b pgx.Batch
					postgres.Enqueue(&b, es)
					if err := tx.SendBatch(t.Context(), &b).Close(); err != nil || commit {
						return err
					}
					return undo
				})
				if commit || !errors.Is(err, undo) {
					must(t, err)
				}
			},
			After: func(t *testing.T, d time.Duration) { // the server's clock is everybody's: the rows age instead
				_, err := pool.Exec(t.Context(), `UPDATE outbox SET written_at = written_at - make_interval(secs => $1), leased_until = leased_until - make_interval(secs => $1)`, d.Seconds())
				must(t, err)
			},
		}
	})
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	databasetest.ExercisePlaces(t, func(t *testing.T) transport.Places {
		pool := open(t)
		must(t, postgres.Migrate(t.Context(), pool, migrations(`-- +goose Up
CREATE TABLE place (sweep text PRIMARY KEY, upto bigint NOT NULL, leased_until timestamptz NOT NULL);
`)))
		return postgres.NewPlaces(pool)
	})
}
