package testenv

import (
	"context"
	"encoding/csv"
	"flashsale/bench/testbed"
	"flashsale/id"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// InfluxURLVar names an InfluxDB 1.8 that takes Flux, with no authentication.
const InfluxURLVar = "FLASHSALE_TEST_INFLUX_URL"

// InfluxDB is a database of one test's own on an InfluxDB 1.8, which takes writes and Flux queries by the 2.x API.
type InfluxDB struct {
	URL    string
	Bucket string // the database and its retention policy, as the 2.x API writes them
	token  string // user:password, when it asks for one
}

// Influx creates a database. It is dropped after the test.
func Influx(t testing.TB) InfluxDB {
	t.Helper()
	server := os.Getenv(InfluxURLVar)
	if server == "" {
		t.Fatalf("no InfluxDB to test on: run `make test`, or set %s", InfluxURLVar)
	}
	name := "test_" + strings.ReplaceAll(id.New(time.Now()).String(), "-", "_")
	db := InfluxDB{URL: server, Bucket: name + "/autogen"}
	exec := func(query string) {
		if body, code, err := db.post("/query?q="+url.QueryEscape(query), "", ""); err != nil || code != http.StatusOK {
			t.Fatalf("InfluxDB: %s: %d %s %v", query, code, body, err)
		}
	}
	exec("CREATE DATABASE " + name)
	t.Cleanup(func() { exec("DROP DATABASE " + name) })
	return db
}

// InfluxOf starts an InfluxDB of the test's own that knows one user and lets nobody else in, with an empty database. It ends with the test.
func InfluxOf(t testing.TB, user, password string) InfluxDB {
	t.Helper()
	bin, err := testbed.BuildInflux(t.Context())
	if err != nil {
		t.Fatalf("InfluxDB: %v", err)
	}
	dir := t.TempDir()
	port := FreePort(t)
	open := testbed.InfluxConfig(dir, port, FreePort(t))
	guarded := strings.Replace(open, "[http]\n", "[http]\nauth-enabled = true\n", 1)
	if guarded == open {
		t.Fatal("the configuration of InfluxDB has no section http")
	}
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte(guarded), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := testbed.Spawn(context.WithoutCancel(t.Context()), dir, "influxdb", syscall.SIGTERM, testbed.BaseEnv(), nil, bin, "-config", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(syscall.SIGTERM) })
	db := InfluxDB{URL: fmt.Sprintf("http://127.0.0.1:%d", port), Bucket: "watched/autogen", token: user + ":" + password}
	if err := p.Ready(t.Context(), time.Minute, testbed.Answers(db.URL+"/ping")); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{fmt.Sprintf("CREATE USER %q WITH PASSWORD '%s' WITH ALL PRIVILEGES", user, password), "CREATE DATABASE watched"} {
		if body, code, err := db.post("/query?q="+url.QueryEscape(query), "", ""); err != nil || code != http.StatusOK {
			t.Fatalf("InfluxDB: %s: %d %s %v", query, code, body, err)
		}
	}
	return db
}

// Flux runs a query and returns its rows, a map from column to text each.
func (db InfluxDB) Flux(query string) ([]map[string]string, error) {
	body, code, err := db.post("/api/v2/query", "application/vnd.flux", query)
	if err != nil {
		return nil, err
	}
	if code != http.StatusOK {
		return nil, fmt.Errorf("InfluxDB answered %d: %s", code, body)
	}
	var rows []map[string]string
	for table := range strings.SplitSeq(strings.ReplaceAll(body, "\r\n", "\n"), "\n\n") {
		reader := csv.NewReader(strings.NewReader(table))
		reader.Comment = '#' // annotations
		lines, err := reader.ReadAll()
		if err != nil {
			return nil, fmt.Errorf("answer of InfluxDB: %w in %q", err, table)
		}
		var names []string
		for _, line := range lines {
			if names == nil {
				names = line
				continue
			}
			row := map[string]string{}
			for i, name := range names {
				row[name] = line[i]
			}
			if row["error"] != "" {
				return nil, fmt.Errorf("InfluxDB: %s", row["error"])
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (db InfluxDB) post(path, kind, body string) (string, int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, db.URL+path, strings.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Accept", "application/csv")
	if user, password, ok := strings.Cut(db.token, ":"); ok {
		req.SetBasicAuth(user, password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	return string(b), resp.StatusCode, err
}
