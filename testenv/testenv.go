// Package testenv gives tests real servers of their own: a fresh database, a fresh Redis, a fresh
// virtual host of RabbitMQ. A missing server fails the test, it never skips it.
package testenv

import (
	"context"
	"flashsale/id"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// DatabaseURLVar names the PostgreSQL server, with a role that may create databases.
const DatabaseURLVar = "FLASHSALE_TEST_DATABASE_URL"

// Postgres creates an empty database and returns its URL. The database is dropped after the test.
func Postgres(t testing.TB) string {
	t.Helper()
	server := os.Getenv(DatabaseURLVar)
	if server == "" {
		t.Fatalf("no PostgreSQL to test on: run `make test`, or set %s", DatabaseURLVar)
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("%s: %v", DatabaseURLVar, err)
	}
	name := "test_" + id.New(time.Now()).String()
	exec := func(sql string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		c, err := pgx.Connect(ctx, server)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close(ctx) }()
		_, err = c.Exec(ctx, sql)
		return err
	}
	if err := exec(`CREATE DATABASE "` + name + `"`); err != nil {
		t.Fatalf("PostgreSQL at %s: %v", u.Redacted(), err)
	}
	t.Cleanup(func() {
		if err := exec(`DROP DATABASE IF EXISTS "` + name + `" WITH (FORCE)`); err != nil {
			t.Errorf("drop %s: %v", name, err)
		}
	})
	u.Path = "/" + name
	return u.String()
}
