package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// commandLine runs the program's own command line and returns what it printed.
func commandLine(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := root()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// TestSecrets: made once, shown as they are, and put where a setting says their name.
func TestSecrets(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	out, err := commandLine(t, "secrets", "make", "--dir", dir, "database", "token")
	if err != nil || strings.Count(out, "made") != 2 {
		t.Fatalf("%q, %v", out, err)
	}
	first, err := commandLine(t, "secrets", "show", "--dir", dir, "database")
	if err != nil || len(strings.TrimSpace(first)) != 64 {
		t.Fatalf("%q, %v", first, err)
	}
	out, err = commandLine(t, "secrets", "make", "--dir", dir, "database", "other")
	again, _ := commandLine(t, "secrets", "show", "--dir", dir, "database")
	if err != nil || !strings.Contains(out, "is there") || again != first {
		t.Errorf("made twice: %q, %v, and the secret is %q", out, err, again)
	}
	if info, err := os.Stat(filepath.Join(dir, "database")); err != nil || info.Mode().Perm() != 0o440 {
		t.Errorf("%v, %v", info.Mode(), err)
	}

	env := servers()
	env[secretsVar] = dir
	env["DATABASE_URL"] = "postgres://{database}:{secret:database}@127.0.0.1/{database}"
	env["TOKEN_SECRETS"] = "{secret:token},{secret:other}"
	cfg, err := parse(t, env, "--internal-token={secret:other}")
	password := strings.TrimSpace(first)
	if err != nil || cfg.databaseURL("order") != "postgres://orders:"+password+"@127.0.0.1/orders" || len(cfg.TokenSecrets) != 2 || len(cfg.InternalToken) != 64 {
		t.Fatalf("%+v, %v", cfg, err)
	}

	if err := os.WriteFile(filepath.Join(dir, "hollow"), []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, say := range map[string]string{"missing": "make it with flashsale secrets make", "hollow": "is empty", "../token": "is no name"} {
		env["AMQP_URL"] = "amqp://flash:{secret:" + name + "}@127.0.0.1/"
		if _, err := parse(t, env); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("{secret:%s}: %v, want %q", name, err, say)
		}
	}
	env[secretsVar], env["AMQP_URL"] = "", ""
	if _, err := parse(t, env); err == nil || !strings.Contains(err.Error(), "name it in FLASHSALE_SECRETS") {
		t.Errorf("without a folder: %v", err)
	}
	if _, err := commandLine(t, "secrets", "make", "--dir", dir, "../outside"); err == nil {
		t.Error("a secret is made outside of its folder")
	}
}

// TestHealth: 200 is well, everything else is not, and says what was answered.
func TestHealth(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, Sync)
	listen := strings.TrimPrefix(h.base, "http://")
	if _, err := commandLine(t, "health", "--listen", listen); err != nil {
		t.Error(err)
	}
	h.apps[0].api.Drain()
	if _, err := commandLine(t, "health", "--listen", listen); err == nil || !strings.Contains(err.Error(), "draining") {
		t.Errorf("a process that stops: %v", err)
	}
	if _, err := commandLine(t, "health", h.base+"/healthz"); err != nil {
		t.Error(err)
	}
	if _, err := commandLine(t, "health", "http://127.0.0.1:1/"); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("nobody there: %v", err)
	}
	for listen, want := range map[string]string{
		":8080": "http://127.0.0.1:8080/readyz", "0.0.0.0:8080": "http://127.0.0.1:8080/readyz", "[::]:1": "http://127.0.0.1:1/readyz", "10.1.2.3:8080": "http://10.1.2.3:8080/readyz",
	} {
		if got, err := readyURL(listen); err != nil || got != want {
			t.Errorf("%s: %s, %v", listen, got, err)
		}
	}
}
