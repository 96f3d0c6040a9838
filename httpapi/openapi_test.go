package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// whole is an API with every route mounted and nobody behind them.
func whole(t *testing.T) *API {
	t.Helper()
	a := testAPI(t)
	a.MountAccounts(nil)
	a.MountCatalog(nil, nil)
	a.MountOrders(nil)
	a.MountPayments(nil)
	a.MountReservations(nil)
	a.MountAudit(nil)
	a.MountDeadLetters(nil)
	return a
}

func document(t *testing.T) map[string]any {
	t.Helper()
	b, err := OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestDocumentHasEveryRoute: what is mounted is documented, and what is documented is mounted.
func TestDocumentHasEveryRoute(t *testing.T) {
	t.Parallel()
	param := regexp.MustCompile(`:(\w+)`)
	var mounted, documented []string
	for _, r := range whole(t).app.GetRoutes(true) {
		if r.Method != http.MethodHead {
			mounted = append(mounted, r.Method+" "+param.ReplaceAllString(r.Path, "{$1}"))
		}
	}
	names := map[string]bool{}
	for path, item := range document(t)["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			documented = append(documented, strings.ToUpper(method)+" "+path)
			name, _ := op.(map[string]any)["operationId"].(string)
			if name == "" || names[name] {
				t.Errorf("%s %s: operationId %q is empty or there twice", method, path, name)
			}
			names[name] = true
		}
	}
	slices.Sort(mounted)
	slices.Sort(documented)
	if !slices.Equal(mounted, documented) {
		t.Fatalf("mounted:\n%s\ndocumented:\n%s", strings.Join(mounted, "\n"), strings.Join(documented, "\n"))
	}
	if len(mounted) < 25 {
		t.Fatalf("only %d routes", len(mounted))
	}
}

// TestDocumentHasEveryProblem: the types that the mapping gives are those of the document.
func TestDocumentHasEveryProblem(t *testing.T) {
	t.Parallel()
	var given []string
	for _, k := range kinds() {
		given = append(given, "/problems/"+k.name)
	}
	slices.Sort(given)
	given = slices.Compact(given)
	listed := document(t)["components"].(map[string]any)["schemas"].(map[string]any)["ProblemType"].(map[string]any)["enum"]
	var documented []string
	for _, v := range listed.([]any) {
		documented = append(documented, fmt.Sprint(v))
	}
	slices.Sort(documented)
	if !slices.Equal(given, documented) {
		t.Fatalf("given:\n%s\ndocumented:\n%s", strings.Join(given, "\n"), strings.Join(documented, "\n"))
	}
}
