package pgnotification_test

import (
	"flashsale/database/postgres"
	"flashsale/notification/notificationtest"
	"flashsale/notification/pgnotification"
	"flashsale/testenv"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	notificationtest.ExerciseStore(t, func(t *testing.T) notificationtest.StoreUnderTest {
		pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 6, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		if err := postgres.Migrate(t.Context(), pool, pgnotification.Migrations); err != nil {
			t.Fatal(err)
		}
		store := pgnotification.New(pool)
		t.Cleanup(store.Close)
		return notificationtest.StoreUnderTest{Store: store, After: time.Sleep} // the server's clock is everybody's
	})
}
