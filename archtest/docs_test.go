package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sources returns all Go code of the project that is not a test.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// stale returns what a document names in code quotes that is not there: functions as Type.Method,
// and files.
func stale(doc, code string) (missing []string) {
	for _, m := range regexp.MustCompile("`([A-Z]\\w+)\\.([A-Z]\\w+)`").FindAllStringSubmatch(doc, -1) {
		method := regexp.MustCompile(`func \(\w+ \*?` + m[1] + `(\[\w+\])?\) ` + m[2] + `\(`)
		declared := regexp.MustCompile(`type ` + m[1] + ` interface \{[^}]*\n\t` + m[2] + `\(`)
		if !method.MatchString(code) && !declared.MatchString(code) {
			missing = append(missing, m[1]+"."+m[2])
		}
	}
	for _, m := range regexp.MustCompile("`([\\w./-]+\\.(?:go|lua|sql|yaml|md))`").FindAllStringSubmatch(doc, -1) {
		if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
			missing = append(missing, m[1])
		}
	}
	return missing
}

// TestDocsNameWhatIsThere: the functions and files that the documents walk through exist.
func TestDocsNameWhatIsThere(t *testing.T) {
	t.Parallel()
	docs, err := filepath.Glob("../docs/*.md")
	flows, ferr := filepath.Glob("../docs/flows/*.md")
	if err != nil || ferr != nil || len(docs)+len(flows) < 4 {
		t.Fatalf("%d documents", len(docs)+len(flows))
	}
	code := sources(t)
	for _, path := range append(append(docs, flows...), "../README.md") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if missing := stale(string(b), code); len(missing) > 0 {
			t.Errorf("%s names what is not there: %s", path, strings.Join(missing, ", "))
		}
	}
	if got := stale("`Ledger.Forget`, `Ledger.Commit`, `Keeper.RunOnce`, `engine/nothing.go`, `engine/flow.go`", code); len(got) != 2 {
		t.Errorf("of a document with two mistakes these were found: %v", got)
	}
}
