package pgledger_test

import (
	"context"
	"flashsale/id"
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/pgledger"
	"flashsale/testenv/databases"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// fresh is a database of the test's own. Nothing crashes here, so no commit waits for the disk.
func fresh(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return databases.Postgres(t, pgledger.Migrations, "synchronous_commit=off", "jit=off")
}

func TestModel(t *testing.T) {
	t.Parallel()
	pool := fresh(t)
	inventorytest.ExerciseLedgerModel(t, inventorytest.TimedLedger{
		Ledger: pgledger.New(pool),
		Now:    time.Now,
		// The server's clock is everybody's: the sale is put back instead.
		Pass: func(ctx context.Context, sale id.ID, d time.Duration) error {
			_, err := pool.Exec(ctx, `WITH s AS (UPDATE sale SET opens_at = opens_at - $2::interval, ends_at = ends_at - $2::interval WHERE id = $1)
				UPDATE reservation SET created_at = created_at - $2::interval, expires_at = expires_at - $2::interval WHERE sale = $1`, sale, d)
			return err
		},
	})
}
