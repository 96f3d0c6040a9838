package audit_test

import (
	"flashsale/audit"
	"testing"
)

func TestClean(t *testing.T) {
	t.Parallel()
	ok, bad := audit.Check{Equation: 1, OK: true}, audit.Check{Equation: 2}
	for name, c := range map[string]struct {
		checks []audit.Check
		want   bool
	}{
		"nothing was shown": {nil, false},
		"one held":          {[]audit.Check{ok}, true},
		"all held":          {[]audit.Check{ok, ok, ok}, true},
		"the first failed":  {[]audit.Check{bad, ok}, false},
		"the last failed":   {[]audit.Check{ok, bad}, false},
	} {
		if got := audit.Clean(c.checks); got != c.want {
			t.Errorf("%s: clean %v", name, got)
		}
	}
}
