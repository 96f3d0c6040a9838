package postgres_test

import (
	"context"
	"errors"
	"flashsale/database/postgres"
	"flashsale/testenv"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestAway: a server that is not there, that ends the session or that is starting is away; a statement that it
// refuses is not.
func TestAway(t *testing.T) {
	t.Parallel()
	_, nobody := pgconn.Connect(t.Context(), fmt.Sprintf("postgres://postgres@127.0.0.1:%d/x?connect_timeout=2", testenv.FreePort(t)))
	pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	_, ended := pool.Exec(t.Context(), "SELECT pg_terminate_backend(pg_backend_pid())")
	_, refused := pool.Exec(t.Context(), "SELECT 1/0")
	starting := &pgconn.PgError{Code: "57P03"}
	for name, c := range map[string]struct {
		err  error
		away bool
	}{
		"nobody listens": {nobody, true}, "the session was ended": {ended, true}, "it is starting": {fmt.Errorf("begin: %w", starting), true},
		"refused": {refused, false}, "a mistake": {errors.New("nil map"), false}, "cancelled": {context.Canceled, false}, "none": {nil, false},
	} {
		if postgres.Away(c.err) != c.away {
			t.Errorf("%s: away %t: %v", name, !c.away, c.err)
		}
	}
}

// TestSilent: a server that takes connections and says nothing is given up, and a client that does so within a
// transaction loses it, and its locks.
func TestSilent(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	began := time.Now()
	_, err = postgres.Open(t.Context(), "postgres://postgres@"+l.Addr().String()+"/x?sslmode=disable", 1, time.Millisecond)
	if took := time.Since(began); err == nil || took > 8*time.Second {
		t.Errorf("a server that says nothing: %v, after %s", err, took)
	}
	pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 1, time.Second)
	must(t, err)
	defer pool.Close()
	var bound string
	must(t, pool.QueryRow(t.Context(), "SHOW idle_in_transaction_session_timeout").Scan(&bound))
	if bound != "5s" || pool.Config().PingTimeout != 2*time.Second {
		t.Errorf("a silent client may keep its locks for %s, a silent server a connection for %s", bound, pool.Config().PingTimeout)
	}
}
