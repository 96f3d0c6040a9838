package pgcatalog_test

import (
	"flashsale/catalog/catalogtest"
	"flashsale/catalog/pgcatalog"
	"flashsale/database/postgres"
	"flashsale/testenv"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	catalogtest.ExerciseStore(t, func(t *testing.T) catalogtest.Store {
		pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 6, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		if err := postgres.Migrate(t.Context(), pool, pgcatalog.Migrations); err != nil {
			t.Fatal(err)
		}
		return pgcatalog.New(pool)
	})
}
