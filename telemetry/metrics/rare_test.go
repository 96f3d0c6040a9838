package metrics

import (
	"context"
	"flashsale/audit"
	"flashsale/database/postgres"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/sqliteledger"
	"flashsale/testenv"
	"flashsale/testenv/databases"
	"os"
	"testing"
	"time"
)

// want asks for the values of series.
func want(t *testing.T, m *Metrics, values map[string]float64) {
	t.Helper()
	for name, v := range values {
		if got := read(t, m, name); got != v {
			t.Errorf("%s is %v, want %v", name, got, v)
		}
	}
}

// TestBooked: what a good sale has none of: a ledger that does not answer, takes whose process died, moves of units that fail.
func TestBooked(t *testing.T) {
	t.Parallel()
	m := quiet()
	ledger := m.Booked(sqliteledger.New(databases.SQLite(t, sqliteledger.Migrations), time.Now))
	now := time.Now()
	ref := inventory.TakeRef{ID: id.New(now), Bucket: inventory.BucketID{Item: inventory.ItemID{Sale: id.New(now), SKU: "BOOT"}}, Epoch: 1}
	if _, err := ledger.Tombstone(t.Context(), []inventory.Pending{{TakeRef: ref, Qty: 1}}); err != nil {
		t.Fatal(err)
	}
	leg := inventory.Leg{Take: id.New(now), Bucket: ref.Bucket, Epoch: 1, Qty: 1}
	if outcome, err := ledger.Transfer(t.Context(), inventory.Transfer{Leg: leg, To: 1}); err != nil || outcome != inventory.Aborted {
		t.Fatal(outcome, err)
	}
	if _, err := ledger.Find(t.Context(), id.New(now)); err == nil { // no failure: there is none
		t.Fatal("a reservation that was never made is found")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ledger.Find(ended, id.New(now)); err == nil {
		t.Fatal("it answers nobody")
	}
	want(t, m, map[string]float64{
		`flashsale_gate_orphans_total{outcome="given_back",wiring="async"}`: 1, `flashsale_gate_orphans_total{outcome="settled",wiring="async"}`: 0,
		`flashsale_gate_transfers_total{outcome="aborted",wiring="async"}`: 1, `flashsale_gate_transfers_total{outcome="other",wiring="async"}`: 0,
		`flashsale_ledger_errors_total{call="find",wiring="async"}`: 1, `flashsale_ledger_call_seconds_count{call="find",wiring="async"}`: 2,
	})
}

// TestDatabase: statements and connections of a real pool, and those statements that fail.
func TestDatabase(t *testing.T) {
	t.Parallel()
	m := quiet()
	pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 2, time.Second, m.Database("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	m.Pool("orders", pool)
	before := read(t, m, `flashsale_database_query_seconds_count{database="orders",wiring="async"}`)
	errs := read(t, m, `flashsale_database_errors_total{database="orders",wiring="async"}`)
	if _, err := pool.Exec(t.Context(), `SELECT pg_sleep(0.05)`); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `SELECT nothing FROM nowhere`); err == nil {
		t.Fatal("there is no such table")
	}
	want(t, m, map[string]float64{
		`flashsale_database_query_seconds_count{database="orders",wiring="async"}`: before + 2, `flashsale_database_errors_total{database="orders",wiring="async"}`: errs + 1,
		`flashsale_database_connections{database="orders",state="in_use",wiring="async"}`: 0, `flashsale_database_connections_limit{database="orders",wiring="async"}`: 2,
	})
	for _, name := range []string{"hold", "query"} {
		if sum := read(t, m, `flashsale_database_`+name+`_seconds_sum{database="orders",wiring="async"}`); sum < 0.05 || sum > 30 {
			t.Errorf("%s of a statement of 50 ms: %v s", name, sum)
		}
	}
}

// TestAudited: a clean audit takes back what a failed one said, one that could not be run does not.
func TestAudited(t *testing.T) {
	t.Parallel()
	m := quiet()
	const failed = `flashsale_audit_failed_checks{wiring="async"}`
	m.Audited([]audit.Check{{OK: false}, {OK: true}, {OK: false}}, nil)
	want(t, m, map[string]float64{failed: 2})
	m.Audited(nil, os.ErrDeadlineExceeded)
	want(t, m, map[string]float64{failed: 2})
	m.Audited([]audit.Check{{OK: true}}, nil)
	want(t, m, map[string]float64{failed: 0})
	for _, outcome := range []string{"clean", "failed", "error"} {
		want(t, m, map[string]float64{`flashsale_audit_runs_total{outcome="` + outcome + `",wiring="async"}`: 1})
	}
	if at := read(t, m, `flashsale_audit_last_seconds{wiring="async"}`); at < float64(time.Now().Add(-time.Minute).Unix()) {
		t.Errorf("the last audit was at %v", at)
	}
}
