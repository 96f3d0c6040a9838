package pgcatalog_test

import (
	"flashsale/catalog/catalogtest"
	"flashsale/catalog/pgcatalog"
	"flashsale/testenv/databases"
	"testing"
)

func TestStore(t *testing.T) {
	t.Parallel()
	catalogtest.ExerciseStore(t, func(t *testing.T) catalogtest.Store {
		pool := databases.Postgres(t, pgcatalog.Migrations)
		return pgcatalog.New(pool)
	})
}
