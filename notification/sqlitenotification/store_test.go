package sqlitenotification_test

import (
	"flashsale/database/sqlite"
	"flashsale/notification/notificationtest"
	"flashsale/notification/sqlitenotification"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	notificationtest.ExerciseStore(t, func(t *testing.T) notificationtest.StoreUnderTest {
		db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "notifications.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		if err := sqlite.Migrate(t.Context(), db, sqlitenotification.Migrations); err != nil {
			t.Fatal(err)
		}
		var ahead atomic.Int64
		clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		return notificationtest.StoreUnderTest{
			Store: sqlitenotification.New(db, clock),
			After: func(d time.Duration) { ahead.Add(int64(d)) },
		}
	})
}
