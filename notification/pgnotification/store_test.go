package pgnotification_test

import (
	"flashsale/notification/notificationtest"
	"flashsale/notification/pgnotification"
	"flashsale/testenv/databases"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	notificationtest.ExerciseStore(t, func(t *testing.T) notificationtest.StoreUnderTest {
		pool := databases.Postgres(t, pgnotification.Migrations)
		store := pgnotification.New(pool)
		t.Cleanup(store.Close)
		return notificationtest.StoreUnderTest{Store: store, After: time.Sleep} // the server's clock is everybody's
	})
}
