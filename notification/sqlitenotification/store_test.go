package sqlitenotification_test

import (
	"flashsale/notification/notificationtest"
	"flashsale/notification/sqlitenotification"
	"flashsale/testenv/databases"
	"sync/atomic"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	notificationtest.ExerciseStore(t, func(t *testing.T) notificationtest.StoreUnderTest {
		db := databases.SQLite(t, sqlitenotification.Migrations)
		var ahead atomic.Int64
		clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		return notificationtest.StoreUnderTest{
			Store: sqlitenotification.New(db, clock),
			After: func(d time.Duration) { ahead.Add(int64(d)) },
		}
	})
}
