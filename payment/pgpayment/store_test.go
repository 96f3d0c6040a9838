package pgpayment_test

import (
	"errors"
	"flashsale/id"
	"flashsale/money"
	"flashsale/payment"
	"flashsale/payment/paymenttest"
	"flashsale/payment/pgpayment"
	"flashsale/testenv/databases"
	"flashsale/transport"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

func open(t *testing.T) (*pgpayment.Store, *pgxpool.Pool) {
	t.Helper()
	pool := databases.Postgres(t, pgpayment.Migrations)
	store := pgpayment.New(pool)
	t.Cleanup(store.Close)
	return store, pool
}

func fresh() payment.Payment {
	now := time.Now()
	return payment.Payment{ID: id.New(now), Order: id.New(now), User: id.New(now), Amount: money.Money{Amount: 990, Currency: "EUR"}, Method: "tok_ok"}
}

func TestStore(t *testing.T) {
	t.Parallel()
	paymenttest.Exercise(t, func(t *testing.T) paymenttest.StoreUnderTest {
		store, pool := open(t)
		exec := func(t *testing.T, sql string, args ...any) {
			t.Helper()
			if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
				t.Fatal(err)
			}
		}
		return paymenttest.StoreUnderTest{
			Store: store,
			Backdate: func(t *testing.T, p id.ID, d time.Duration) {
				exec(t, `UPDATE payment SET created_at = created_at - make_interval(secs => $2), updated_at = updated_at - make_interval(secs => $2)
					WHERE id = $1`, p, d.Seconds())
			},
			Corrupt: func(t *testing.T, sql string) { exec(t, sql) },
		}
	})
}

// TestNotAnsweredBeforeTheCommit: when the commit itself fails, nobody is told that anything was written, and nothing is.
func TestNotAnsweredBeforeTheCommit(t *testing.T) {
	t.Parallel()
	s, pool := open(t)
	was := fresh()
	if _, _, err := s.Begin(t.Context(), was); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space left'; END $$`,
		`CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON payment DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	p := fresh()
	if _, _, err := s.Begin(t.Context(), p); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("begun, with a commit that failed: %v", err)
	}
	if _, err := s.Find(t.Context(), p.ID); !errors.Is(err, payment.ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
	if _, err := s.Advance(t.Context(), payment.Step{Payment: was.ID, From: []payment.State{payment.Requested}, To: payment.Charging}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("moved, with a commit that failed: %v", err)
	}
	if now, err := s.Find(t.Context(), was.ID); err != nil || now.State != payment.Requested {
		t.Errorf("it is %s, %v", now.State, err)
	}
}

// TestAlone: a text that cannot be stored fails its own call, and nobody's that comes at the same time.
func TestAlone(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	var wg sync.WaitGroup
	for i := range 96 {
		p := fresh()
		bad := i%8 == 0
		if _, _, err := s.Begin(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			other := fresh()
			step := payment.Step{Payment: p.ID, From: []payment.State{payment.Requested}, To: payment.Charging}
			if bad {
				other.Method, step.Reason = "tok\x00", "\xff"
			}
			if _, _, err := s.Begin(t.Context(), other); (err != nil) != bad {
				t.Errorf("a method that is bad (%t): begun, %v", bad, err)
			}
			if _, err := s.Advance(t.Context(), step); (err != nil) != bad {
				t.Errorf("a reason that is bad (%t): moved, %v", bad, err)
			}
		})
	}
	wg.Wait()
}

// TestClosed: a store that is closed says that it is busy, which is tried again elsewhere, and has written nothing.
func TestClosed(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	s.Close()
	p := fresh()
	if _, _, err := s.Begin(t.Context(), p); !errors.Is(err, transport.ErrOverloaded) {
		t.Errorf("begun: %v", err)
	}
	if _, err := s.Find(t.Context(), p.ID); !errors.Is(err, payment.ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
}
