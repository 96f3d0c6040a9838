package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestAuditEveryNeedsAReader: what cannot be audited again and again, or would tell nobody, is refused with what to do.
func TestAuditEveryNeedsAReader(t *testing.T) {
	t.Parallel()
	servers := []string{"--database-url=postgres://127.0.0.1:1/{database}", "--redis-urls=redis://127.0.0.1:1"}
	for want, args := range map[string][]string{
		"set 1s or more":             append(servers, "--every=1ms", "--admin-listen=127.0.0.1:0"),
		"set --admin-listen":         append(servers, "--every=1m"),
		"flashsale serve --audit-ev": {"--every=1m", "--admin-listen=127.0.0.1:0", "--data", t.TempDir()},
	} {
		cmd := root()
		cmd.SetOut(&bytes.Buffer{})
		cmd.SetArgs(append([]string{"audit"}, args...))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}
