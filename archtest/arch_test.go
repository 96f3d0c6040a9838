// Package archtest holds the directions of imports: parents define, children implement, cmd
// chooses.
package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "flashsale"

// parents are the packages whose children are adapters.
func parents() []string {
	return []string{"inventory", "order", "payment", "catalog", "account", "notification", "transport", "database", "reservation", "engine"}
}

// drivers are what only adapters, httpapi and cmd may import.
func drivers() []string {
	return []string{
		"github.com/gofiber/", "github.com/valyala/", "github.com/redis/", "github.com/jackc/", "github.com/rabbitmq/", "modernc.org/", "github.com/pressly/",
		"database/sql", "github.com/wneessen/", "github.com/golang-jwt/", "net/http",
	}
}

// testOnly is what the shipped binary must not contain.
func testOnly() []string {
	return []string{"testing", "pgregory.net/rapid", "go.uber.org/goleak", "github.com/anishathalye/porcupine", "github.com/santhosh-tekuri/jsonschema", "github.com/Shopify/toxiproxy", module + "/testenv"}
}

// violation says what an import breaks, or "" when it may stand. Both are paths within the module,
// or a library's path as it is.
func violation(from, to string) string {
	inside, ours := strings.CutPrefix(to, module+"/")
	fromParent, _, fromChild := strings.Cut(from, "/")
	testing := strings.HasSuffix(from, "test") || strings.HasPrefix(from, "testenv")
	switch {
	case from == "reservation" && strings.Contains(to, ".") || from == "reservation" && ours && inside != "id" && inside != "money":
		return "reservation uses the standard library, id and money only; move what needs more to its caller"
	case !testing && slices.ContainsFunc(testOnly(), func(p string) bool { return to == p || strings.HasPrefix(to, p+"/") }):
		return "a test library must not be in the shipped binary; move the code to a test file or a …test package"
	case !fromChild && slices.Contains(parents(), from) && slices.ContainsFunc(drivers(), func(d string) bool { return strings.HasPrefix(to, d) }):
		return "a parent defines contracts and imports no driver; move the code to an adapter below it"
	case !ours:
		return ""
	case strings.HasPrefix(inside, from+"/"):
		return "a parent never imports its child; let cmd hand the child in"
	case fromChild && path.Dir(inside) == fromParent && !strings.HasSuffix(inside, "test") && from != inside && slices.Contains(parents(), fromParent) && fromParent != "engine":
		return "siblings never import each other; move what they share to the parent"
	case from == "engine" && strings.Contains(inside, "/"):
		return "the engine knows contracts, no adapters; take an interface and let cmd choose"
	case isAdapter(inside) && !strings.HasPrefix(from, "cmd/") && !slices.Contains([]string{"bench/core", "bench/lab", "bench/async"}, from) && !testing && !sharedDatabase(inside):
		return "only cmd chooses adapters; take the contract instead"
	case inside == "engine" && !slices.Contains([]string{"httpapi", "console"}, from) && !strings.HasPrefix(from, "cmd/"):
		return "only httpapi, console and cmd stand above the engine"
	}
	return ""
}

// isAdapter reports whether a package is a child of a parent and not its suite.
func isAdapter(p string) bool {
	parent, child, ok := strings.Cut(p, "/")
	return ok && slices.Contains(parents(), parent) && !strings.HasSuffix(child, "test")
}

// sharedDatabase: the two database packages are what every adapter of that database builds on.
func sharedDatabase(p string) bool { return p == "database/postgres" || p == "database/sqlite" }

type pkg struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"/...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImportDirections(t *testing.T) {
	t.Parallel()
	all := packages(t)
	if len(all) < 30 {
		t.Fatalf("only %d packages were found: the test looks in the wrong place", len(all))
	}
	for _, p := range all {
		from := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, to := range p.Imports {
			if why := violation(from, to); why != "" {
				t.Errorf("%s imports %s: %s", from, strings.TrimPrefix(to, module+"/"), why)
			}
		}
	}
}

// TestBadImportsAreCaught: for every rule an import that breaks it, and beside it one that may stand.
func TestBadImportsAreCaught(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, bad, good string }{
		{"reservation", "github.com/google/uuid", "time"},
		{"reservation", module + "/inventory", module + "/id"},
		{"inventory", "github.com/redis/go-redis/v9", module + "/reservation"},
		{"order", "database/sql", "context"},
		{"engine", "net/http", "log/slog"},
		{"inventory", module + "/inventory/memstock", module + "/audit"},
		{"transport", module + "/transport/amqp", module + "/id"},
		{"inventory/memstock", module + "/inventory/redisstock", module + "/inventory"},
		{"order/pgorder", module + "/order/sqliteorder", module + "/database/postgres"},
		{"engine", module + "/inventory/pgledger", module + "/inventory"},
		{"httpapi", module + "/catalog/pgcatalog", module + "/engine"},
		{"catalog", module + "/engine", module + "/transport"},
		{"inventory/memstock", "testing", "sync"},
		{"engine", module + "/testenv", module + "/groupcommit"},
		{"bench/journey", module + "/engine", "net/http"},
	} {
		if violation(c.from, c.bad) == "" {
			t.Errorf("%s may import %s: the rule against it is gone", c.from, c.bad)
		}
		if why := violation(c.from, c.good); why != "" {
			t.Errorf("%s may not import %s: %s", c.from, c.good, why)
		}
	}
	if got := violation("cmd/flashsale", fmt.Sprintf("%s/inventory/pgledger", module)); got != "" {
		t.Errorf("cmd may not choose: %s", got)
	}
}
