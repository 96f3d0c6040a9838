package sqliteaccount_test

import (
	"flashsale/account"
	"flashsale/account/accounttest"
	"flashsale/account/sqliteaccount"
	"flashsale/testenv/databases"
	"testing"
)

func TestStore(t *testing.T) {
	t.Parallel()
	accounttest.ExerciseStore(t, func(t *testing.T) account.Store {
		db := databases.SQLite(t, sqliteaccount.Migrations)
		return sqliteaccount.New(db)
	})
}
