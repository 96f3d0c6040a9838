package postgres_test

import (
	"context"
	"errors"
	"flashsale/database/postgres"
	"flashsale/testenv"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	one = "-- +goose Up\nCREATE TABLE one (n integer PRIMARY KEY, CONSTRAINT small CHECK (n < 10));\n-- +goose Down\nDROP TABLE one;\n"
	two = "-- +goose Up\nCREATE TABLE two (n integer);\n-- +goose Down\nDROP TABLE two;\n"
	bad = "-- +goose Up\nCREATE TABLE three (n integer);\nCREATE TABLE one (n integer);\n-- +goose Down\nDROP TABLE three;\n"
)

// tables counts the tables there are, goose's own left out.
func tables(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	var n int
	must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'goose_db_version'`).Scan(&n))
	return n
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	pool, ctx := open(t), t.Context()
	wantErr(t, postgres.CheckVersion(ctx, pool, migrations(one)), postgres.ErrOutdated)
	var there bool
	must(t, pool.QueryRow(ctx, `SELECT to_regclass('goose_db_version') IS NOT NULL`).Scan(&there))
	if there {
		t.Fatal("a check has changed the database")
	}
	for range 2 {
		must(t, postgres.Migrate(ctx, pool, migrations(one)))
		must(t, postgres.CheckVersion(ctx, pool, migrations(one)))
	}
	err := postgres.CheckVersion(ctx, pool, migrations(one, two))
	wantErr(t, err, postgres.ErrOutdated)
	if !strings.Contains(err.Error(), "version 1, wanted 2") || !strings.Contains(err.Error(), "flashsale migrate") {
		t.Errorf("%v", err)
	}
	_, err = pool.Exec(ctx, `INSERT INTO one VALUES (1)`)
	must(t, err)
	must(t, postgres.Migrate(ctx, pool, migrations(one, two)))
	must(t, postgres.CheckVersion(ctx, pool, migrations(one, two)))
	wantErr(t, postgres.CheckVersion(ctx, pool, migrations(one)), postgres.ErrOutdated) // of a newer program
	if err := postgres.Migrate(ctx, pool, migrations(one, two, bad)); err == nil {
		t.Error("a migration that fails is no error")
	}
	must(t, postgres.CheckVersion(ctx, pool, migrations(one, two)))
	var n int
	must(t, pool.QueryRow(ctx, `SELECT count(*) FROM one`).Scan(&n))
	if got := tables(t, pool); n != 1 || got != 2 {
		t.Errorf("%d rows, %d tables after a migration that failed half-way", n, got)
	}
	if err := postgres.Migrate(ctx, pool, migrations()); err == nil {
		t.Error("no migrations at all is no error")
	}
	if err := postgres.CheckVersion(ctx, pool, migrations()); err == nil {
		t.Error("no migrations at all is the right version")
	}
}

// TestMigrateTogether: instances that start at the same time all find the schema ready.
func TestMigrateTogether(t *testing.T) {
	t.Parallel()
	pool := open(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := postgres.Migrate(t.Context(), pool, migrations(one, two)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, postgres.CheckVersion(t.Context(), pool, migrations(one, two)))
	if got := tables(t, pool); got != 2 {
		t.Errorf("%d tables", got)
	}
}

func TestCheckSafe(t *testing.T) {
	t.Parallel()
	database := testenv.Postgres(t)
	for value, want := range map[string]error{"": nil, "on": nil, "local": nil, "remote_apply": nil, "off": postgres.ErrUnsafe} {
		u, err := url.Parse(database)
		must(t, err)
		if value != "" {
			q := u.Query()
			q.Set("synchronous_commit", value)
			u.RawQuery = q.Encode()
		}
		pool, err := postgres.Open(t.Context(), u.String(), 2, time.Second)
		must(t, err)
		t.Cleanup(pool.Close)
		err = postgres.CheckSafe(t.Context(), pool)
		if !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), "ALTER SYSTEM SET synchronous_commit = on") {
			t.Errorf("synchronous_commit %q: %v, want %v", value, err, want)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	if _, err := postgres.Open(t.Context(), "mysql://somewhere", 1, time.Second); err == nil || !strings.Contains(err.Error(), "postgres://user:password@host:port/database") {
		t.Errorf("%v", err)
	}
	start := time.Now()
	_, err := postgres.Open(t.Context(), "postgres://somebody:secret@127.0.0.1:1/nothing", 1, 200*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1/nothing") || strings.Contains(err.Error(), "secret") || time.Since(start) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = postgres.Open(ctx, "postgres://somebody@127.0.0.1:1/nothing", 1, time.Hour)
	wantErr(t, err, context.Canceled)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	pool, ctx := open(t), t.Context()
	must(t, postgres.Migrate(ctx, pool, migrations(one)))
	exec := func(sql string) error { _, err := pool.Exec(ctx, sql); return err }
	must(t, exec(`INSERT INTO one VALUES (1)`))
	for _, c := range []struct {
		err              error
		code, constraint string
	}{
		{exec(`INSERT INTO one VALUES (1)`), "23505", "one_pkey"},
		{exec(`INSERT INTO one VALUES (10)`), "23514", "small"},
		{exec(`SELECT * FROM nothing`), "42P01", ""},
		{exec(`INSERT INTO one VALUES (2)`), "", ""},
		{pgx.ErrNoRows, "", ""},
	} {
		if postgres.Code(c.err) != c.code || postgres.Constraint(c.err) != c.constraint || postgres.Conflict(c.err) {
			t.Errorf("%v: code %q of %q, conflict %v; want %q of %q", c.err, postgres.Code(c.err), postgres.Constraint(c.err), postgres.Conflict(c.err), c.code, c.constraint)
		}
	}
}

// TestConflict makes the two conflicts that a server knows.
func TestConflict(t *testing.T) {
	t.Parallel()
	pool, ctx := open(t), t.Context()
	must(t, postgres.Migrate(ctx, pool, migrations(one)))
	_, err := pool.Exec(ctx, `INSERT INTO one VALUES (1), (2)`)
	must(t, err)
	begin := func(level pgx.TxIsoLevel) (exec func(sql string) error, commit func() error) {
		tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
		must(t, err)
		t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
		return func(sql string) error { _, err := tx.Exec(ctx, sql); return err }, func() error { return tx.Commit(ctx) }
	}

	a, commitA := begin(pgx.RepeatableRead)
	b, _ := begin(pgx.RepeatableRead)
	must(t, b(`SELECT * FROM one`))
	must(t, a(`UPDATE one SET n = 3 WHERE n = 1`))
	must(t, commitA())
	if err := b(`UPDATE one SET n = 4 WHERE n = 1`); postgres.Code(err) != "40001" || !postgres.Conflict(err) {
		t.Errorf("serialization failure: %v", err)
	}

	a, _ = begin(pgx.ReadCommitted)
	b, _ = begin(pgx.ReadCommitted)
	must(t, a(`SELECT * FROM one WHERE n = 2 FOR UPDATE`))
	must(t, b(`SELECT * FROM one WHERE n = 3 FOR UPDATE`))
	first := make(chan error, 1)
	go func() { first <- a(`SELECT * FROM one WHERE n = 3 FOR UPDATE`) }()
	errB := b(`SELECT * FROM one WHERE n = 2 FOR UPDATE`) // whoever is the victim lets the other go on
	if victim := errors.Join(<-first, errB); postgres.Code(victim) != "40P01" || !postgres.Conflict(victim) {
		t.Errorf("deadlock: %v", victim)
	}
}

// TestHungInTransaction: who hangs in the middle of a transaction keeps nobody waiting for long, and its transaction has failed.
func TestHungInTransaction(t *testing.T) {
	t.Parallel()
	database := testenv.Postgres(t)
	open := func() *pgxpool.Pool {
		pool, err := postgres.Open(t.Context(), database, 1, time.Second)
		must(t, err)
		t.Cleanup(pool.Close)
		return pool
	}
	hung, other := open(), open()
	_, err := hung.Exec(t.Context(), `CREATE TABLE stock (id integer PRIMARY KEY, n integer); INSERT INTO stock VALUES (1, 5)`)
	must(t, err)
	tx, err := hung.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `UPDATE stock SET n = n - 1 WHERE id = 1`)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if _, err := other.Exec(ctx, `UPDATE stock SET n = n - 2 WHERE id = 1`); err != nil {
		t.Errorf("with another process hung: %v", err)
	}
	if err := tx.Commit(t.Context()); err == nil || !postgres.Away(err) {
		t.Errorf("who hung commits all the same, or is told something else: %v", err)
	}
	var n int
	must(t, other.QueryRow(t.Context(), `SELECT n FROM stock`).Scan(&n))
	if n != 3 {
		t.Errorf("%d are left, want 3", n)
	}
}
