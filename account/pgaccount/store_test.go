package pgaccount_test

import (
	"flashsale/account"
	"flashsale/account/accounttest"
	"flashsale/account/pgaccount"
	"flashsale/testenv/databases"
	"testing"
)

func TestStore(t *testing.T) {
	t.Parallel()
	accounttest.ExerciseStore(t, func(t *testing.T) account.Store {
		pool := databases.Postgres(t, pgaccount.Migrations)
		return pgaccount.New(pool)
	})
}
