package pgaccount_test

import (
	"flashsale/account"
	"flashsale/account/accounttest"
	"flashsale/account/pgaccount"
	"flashsale/database/postgres"
	"flashsale/testenv"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	accounttest.ExerciseStore(t, func(t *testing.T) account.Store {
		pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 8, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		if err := postgres.Migrate(t.Context(), pool, pgaccount.Migrations); err != nil {
			t.Fatal(err)
		}
		return pgaccount.New(pool)
	})
}
