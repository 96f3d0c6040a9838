package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// parse reads a configuration as the program does.
func parse(t *testing.T, env map[string]string, args ...string) (Config, error) {
	t.Helper()
	cfg := defaults()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	cfg.bind(flags)
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	if err := cfg.fill(flags, func(name string) string { return env[name] }); err != nil {
		return cfg, err
	}
	return cfg, cfg.validate()
}

const (
	aSecret = "0123456789abcdef0123456789abcdef"
	aToken  = "fedcba9876543210fedcba9876543210"
)

func servers() map[string]string {
	return map[string]string{
		"DATABASE_URL": "postgres://flash:hidden@127.0.0.1:5432/{database}", "REDIS_URLS": "redis://127.0.0.1:1,redis://127.0.0.1:2",
		"AMQP_URL": "amqp://flash:hidden@127.0.0.1:5672/", "TOKEN_SECRETS": aSecret,
	}
}

// TestConfigRefused: what is wrong or unsafe is refused, and the sentence says what to do.
func TestConfigRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  map[string]string // on top of the servers, "" to take one away; nil for the embedded default
		args []string
		say  string
	}{
		"no token secret":                 {env: map[string]string{"TOKEN_SECRETS": ""}, say: "set TOKEN_SECRETS"},
		"a short token secret":            {env: map[string]string{"TOKEN_SECRETS": aSecret + ",short"}, say: "token secret 2 has 5 bytes; use at least 32"},
		"a cheap password hash":           {env: map[string]string{}, args: []string{"--password-memory=64"}, say: "argon2id needs at least 19456"},
		"one database for all":            {env: map[string]string{"DATABASE_URL": "postgres://127.0.0.1/flash"}, say: "has no {database} in it"},
		"no database URL":                 {env: map[string]string{"DATABASE_URL": "mysql://127.0.0.1/{database}"}, say: "set postgres://"},
		"a database missing":              {env: map[string]string{"DATABASE_URL": "", "DATABASE_URLS": "orders=postgres://h/o"}, say: "no database for the role inventory"},
		"no gate":                         {env: map[string]string{"REDIS_URLS": ""}, say: "set REDIS_URLS"},
		"async without a broker":          {env: map[string]string{"AMQP_URL": ""}, args: []string{"--mode=async"}, say: "set AMQP_URL"},
		"split, unreachable":              {env: map[string]string{}, args: []string{"--roles=order"}, say: "set internal-listen"},
		"split, the others unknown":       {env: map[string]string{"FLASHSALE_INTERNAL_TOKEN": aToken}, args: []string{"--roles=order", "--internal-listen=:9090"}, say: "set peers"},
		"calls without a token":           {env: map[string]string{}, args: []string{"--internal-listen=:9090"}, say: "set FLASHSALE_INTERNAL_TOKEN"},
		"a token that no header can have": {env: map[string]string{"FLASHSALE_INTERNAL_TOKEN": aToken + " x"}, args: []string{"--internal-listen=:9090"}, say: "visible ASCII"},
		"a peer without an address":       {env: map[string]string{"FLASHSALE_INTERNAL_TOKEN": aToken}, args: []string{"--internal-listen=:9090", "--peers=order=here"}, say: "set order=http://host:port"},
		"a mode that is none":             {args: []string{"--mode=both"}, say: "set sync or async"},
		"a role that is none":             {args: []string{"--roles=orders"}, say: "the roles are reservation"},
		"no role":                         {args: []string{"--roles="}, say: "name at least one"},
		"embedded, split":                 {args: []string{"--roles=order"}, say: "runs all roles in one process"},
		"embedded, with a broker":         {args: []string{"--amqp-url=amqp://h"}, say: "set DATABASE_URL too"},
		"embedded, nowhere":               {args: []string{"--data="}, say: "name a folder"},
		"no shards":                       {args: []string{"--shards=0"}, say: "set 1 to 64"},
		"no port":                         {args: []string{"--listen=localhost"}, say: "set host:port"},
		"no time":                         {args: []string{"--drain-for=0s"}, say: "set a duration above zero"},
		"a notice longer than the stop":   {args: []string{"--drain-notice=1m"}, say: "less than drain-for"},
		"negative latency":                {args: []string{"--payment-latency=-1s"}, say: "set zero or more"},
		"probing what is under way":       {args: []string{"--probe-after=3s"}, say: "set more than payment-patience"},
		"rates above one":                 {args: []string{"--payment-decline-rate=0.6", "--payment-timeout-rate=0.6"}, say: "lower them"},
		"no requests":                     {args: []string{"--max-requests=0"}, say: "set 1 or more"},
		"a level that is none":            {args: []string{"--log-level=loud"}, say: "set debug, info, warn or error"},
		"a format that is none":           {args: []string{"--log-format=xml"}, say: "set text or json"},
		"mail and webhook":                {args: []string{"--smtp-url=smtp://h", "--webhook-url=http://h"}, say: "unset one"},
		"metrics in public":               {args: []string{"--listen=:8080", "--admin-listen=:8080"}, say: "set a port of its own"},
		"metrics nowhere":                 {args: []string{"--admin-listen=here"}, say: "admin-listen is \"here\"; set host:port"},
		"looking all the time":            {args: []string{"--look-every=1ms"}, say: "set 100ms or more"},
		"auditing all the time":           {args: []string{"--audit-every=1ms"}, say: "set 0s for none, or 1s or more"},
		"no InfluxDB":                     {args: []string{"--influx-url=http:"}, say: "set http://host:8086"},
		"InfluxDB with a password":        {args: []string{"--influx-url=http://me:hidden@h:8086"}, say: "as INFLUX_TOKEN"},
		"InfluxDB without a bucket":       {args: []string{"--influx-url=http://h:8086", "--influx-bucket="}, say: "name the bucket"},
		"collecting all the time":         {args: []string{"--influx-url=http://h:8086", "--collect-every=1ms"}, say: "set 100ms or more"},
		"nowhere for traces":              {args: []string{"--otlp-endpoint=jaeger://h:4318"}, say: "set http://host:4318"},
		"traces of negative slowness":     {args: []string{"--trace-slow=-1s"}, say: "set zero or more"},
		"more traces than there are":      {args: []string{"--trace-ratio=2"}, say: "write a number from 0 to 1"},
		"a duration that is none":         {args: []string{"--drain-for=5"}, say: "write 250ms, 5s or 2m"},
		"a share that is none":            {args: []string{"--payment-decline-rate=NaN"}, say: "write a number from 0 to 1"},
		"a number that is none":           {args: []string{"--shards=four"}, say: "is not a whole number"},
		"a map that is none":              {args: []string{"--peers=order"}, say: "part 1 is not name=value"},
		"an environment that is none":     {env: map[string]string{"FLASHSALE_DRAIN_FOR": "soon"}, say: "environment FLASHSALE_DRAIN_FOR"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{}
			if c.env != nil {
				env = servers()
				for k, v := range c.env {
					env[k] = v
				}
			}
			if _, err := parse(t, env, c.args...); err == nil || !strings.Contains(err.Error(), c.say) {
				t.Fatalf("%v\nwant a sentence with %q", err, c.say)
			}
		})
	}
	for name, env := range map[string]map[string]string{"embedded": nil, "servers": servers()} {
		for _, mode := range []string{"sync", "async"} {
			if _, err := parse(t, env, "--mode="+mode); err != nil {
				t.Errorf("%s, %s: %v", name, mode, err)
			}
		}
	}
}

// TestConfigOrder: the file, then the environment, then the flags; an unknown setting is refused.
func TestConfigOrder(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "flashsale.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("drain-for: 7s\nshards: 3\nmax-requests: 5\nroles: [" + strings.Join(allRoles(), ", ") + "]\n")
	env := map[string]string{"FLASHSALE_CONFIG": file, "FLASHSALE_SHARDS": "5", "FLASHSALE_MAX_REQUESTS": "6"}
	cfg, err := parse(t, env, "--max-requests=7")
	if err != nil || cfg.DrainFor != 7*time.Second || cfg.Shards != 5 || cfg.MaxRequests != 7 || !slices.Equal(cfg.Roles, allRoles()) {
		t.Fatalf("%+v, %v", cfg, err)
	}
	for text, say := range map[string]string{
		"shards: 2\nshard: 3\n": `line 2: there is no setting "shard"`, "shards: many\n": "line 1, shards", "[": "configuration file",
	} {
		write(text)
		if _, err := parse(t, map[string]string{"FLASHSALE_CONFIG": file}); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v, want %q", text, err, say)
		}
	}
	if _, err := parse(t, nil, "--config="+file+".none"); err == nil {
		t.Error("a file that is not there is taken")
	}
}

// TestConfigIsRedacted: no secret is printed, whichever setting carries it.
func TestConfigIsRedacted(t *testing.T) {
	t.Parallel()
	env := servers()
	env["FLASHSALE_INTERNAL_TOKEN"], env["OPERATOR_PASSWORD"], env["SMTP_URL"] = aToken, "hidden too", "smtp://me:hidden@mail:25"
	env["INFLUX_URL"], env["INFLUX_TOKEN"] = "http://127.0.0.1:8086", "hidden token"
	env["CACHE_URL"] = "redis://:hidden@127.0.0.1:3"
	cfg, err := parse(t, env)
	if err != nil {
		t.Fatal(err)
	}
	printed := fmt.Sprint(cfg.redacted()...)
	for _, secret := range []string{"hidden", aSecret, aToken} {
		if strings.Contains(printed, secret) {
			t.Errorf("%q is printed: %s", secret, printed)
		}
	}
	for _, shown := range []string{"token_secrets", "(set)", "mode", "sync"} {
		if !strings.Contains(printed, shown) {
			t.Errorf("%q is not printed: %s", shown, printed)
		}
	}
}

// FuzzConfig: whatever a setting is set to, the program says what is wrong or has a configuration whose
// settings say the same again; secrets are in no message.
func FuzzConfig(f *testing.F) {
	names := defaults()
	settings := names.settings()
	for i, text := range []string{
		"async", "", "order,payment", "127.0.0.1:0", "inventory=http://h:1,order=x", "postgres://u:hidden-text@h/{database}", "redis://:hidden-text@h:1,::", "%zz", "5s", "-1h", "1e9", "NaN",
		"99999999999999999999", "0.5", "=", ",,,", "a=b=c", "\x00", "amqp://u:hidden-text@[::1", "json",
	} {
		f.Add(uint8(i), text, i%2 == 0)
		f.Add(uint8(3*i), text, true)
	}
	f.Fuzz(func(t *testing.T, which uint8, text string, real bool) {
		s := settings[int(which)%len(settings)]
		env := map[string]string{}
		if real {
			env = servers()
		}
		env[s.envName()] = text
		cfg := defaults()
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		cfg.bind(flags)
		err := cfg.fill(flags, func(name string) string { return env[name] })
		if err == nil {
			err = cfg.validate()
		}
		if err != nil {
			if s.secret && len(text) > 12 && strings.Contains(err.Error(), text) {
				t.Errorf("%s: the error repeats the secret: %v", s.name, err)
			}
			return
		}
		for _, a := range cfg.settings() {
			again := defaults()
			for _, b := range again.settings() {
				if b.name == a.name && a.value.String() != "" {
					if err := b.value.Set(a.value.String()); err != nil || b.value.String() != a.value.String() {
						t.Errorf("%s is %q, which is read again as %q, %v", a.name, a.value, b.value, err)
					}
				}
			}
		}
	})
}
