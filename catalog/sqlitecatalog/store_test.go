package sqlitecatalog_test

import (
	"flashsale/catalog/catalogtest"
	"flashsale/catalog/sqlitecatalog"
	"flashsale/testenv/databases"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	catalogtest.ExerciseStore(t, func(t *testing.T) catalogtest.Store {
		db := databases.SQLite(t, sqlitecatalog.Migrations)
		return sqlitecatalog.New(db, time.Now)
	})
}
