//go:build faults

package faults

import (
	"encoding/json"
	"flashsale/testenv"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
)

// logInjection: whatever somebody sends, a line of a log is one that the system wrote: it can be read by
// a machine, and has what was sent inside its quotes.
func logInjection(t *testing.T, f *front) {
	eve := f.shopper("eve")
	const forged = "\nlevel=ERROR msg=FORGED\r\n{\"level\":\"ERROR\",\"msg\":\"FORGED\"}\x1b[2J\u2028\x00"
	for _, body := range []map[string]any{{"email": "eve" + forged + "@example.com", "password": password}, {"email": "eve@example.com", "password": forged}, {"email": `"eve` + "\n" + `FORGED"@example.com`, "password": password}} {
		f.nobody().do("POST", "/api/v1/auth/login", body)
		f.nobody().do("POST", "/api/v1/auth/register", body)
	}
	eve.want(t, 422, "sale-not-open", "POST", "/api/v1/reservations", map[string]any{"sale_id": "0192f0a0-0000-7000-8000-000000000001", "sku": forged, "quantity": 1}, "Idempotency-Key", "k", "Prefer", "wait=10")
	eve.do("GET", "/api/v1/products/search?q=%0AFORGED%0D%0Alevel%3DERROR&category=%22%1b[2J", nil, "User-Agent", `"} FORGED {"`, "Referer", "\\\"FORGED", "Traceparent", "00-FORGED")
	eve.do("GET", "/api/v1/orders/%0AFORGED%22", nil, "X-Request-Id", `x"FORGED`)
	eve.do("GET", "/FORGED%0a%22x", nil, "X-Request-Id", "x FORGED=1")
	f.raw(t, "GET /api/v1/sales?\"FORGED\x7f\t HTTP/1.1\r\nHost: \"FORGED\r\nConnection: close\r\n\r\n")
	f.raw(t, "GET /FORGED\\x22\",\"forged\":\"1 HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nX-Request-Id: a\rb\r\n\r\n")
	end := eve.want(t, 200, "", "GET", "/api/v1/orders", nil).header.Get("X-Request-Id")
	f.until("the logs have it", 10*time.Second, func() bool { return strings.Contains(f.logs.String(), end) && strings.Contains(f.access(), end) })

	text := regexp.MustCompile(`^time=\S+ level=(DEBUG|INFO|WARN|ERROR) msg=("(?:[^"\\]|\\.)*"|\S+)( [\w.]+=("(?:[^"\\]|\\.)*"|[^\s"]*))*$`)
	lines := 0
	logs := f.logs.String()
	for line := range strings.Lines(logs[:strings.LastIndex(logs, "\n")+1]) {
		line = strings.TrimSuffix(line, "\n")
		lines++
		var fields map[string]any
		if ok := text.MatchString(line); f.mode == "async" && !ok || f.mode == "sync" && json.Unmarshal([]byte(line), &fields) != nil {
			t.Errorf("a line that is not the system's: %q", line)
		}
		if fields["msg"] == "FORGED" || fields["level"] == "FORGED" {
			t.Errorf("a forged line: %q", line)
		}
	}
	for line := range strings.Lines(f.access()) {
		lines++
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["forged"] != nil || fields["client"] == nil {
			t.Errorf("a line that is not nginx's: %q: %v", line, err)
		}
	}
	if lines < 500 {
		t.Errorf("only %d lines of logs", lines)
	}
}

// leaks: after all that the other tests did, and a purchase, a failure and a dead letter besides, no
// secret is in what the system writes about itself: logs, events, dead letters, traces, metrics,
// profiles, and the errors of a process that cannot start.
func leaks(t *testing.T, f *front) {
	sale := f.open(t, 20, time.Minute)
	const phrase, method = "a pass phrase of liz's own", "pm_liz_4242424242424242"
	f.nobody().want(t, 201, "", "POST", "/api/v1/auth/register", map[string]any{"email": "liz@example.com", "password": phrase})
	r := f.nobody().want(t, 200, "", "POST", "/api/v1/auth/login", map[string]any{"email": "liz@example.com", "password": phrase})
	liz := f.nobody()
	liz.token = fmt.Sprint(r.body["access_token"])
	refresh := fmt.Sprint(r.body["refresh_token"])
	next := f.nobody().want(t, 200, "", "POST", "/api/v1/auth/refresh", map[string]any{"refresh_token": refresh})
	f.nobody().want(t, 401, "", "POST", "/api/v1/auth/refresh", map[string]any{"refresh_token": refresh})
	f.nobody().want(t, 400, "malformed", "POST", "/api/v1/auth/login", map[string]any{"email": "liz@example.com", "password": phrase, "token": refresh})
	f.nobody().want(t, 401, "", "POST", "/api/v1/auth/login", map[string]any{"email": "liz@example.com", "password": phrase + "!"})
	mine := liz.reserve(t, sale, "mine")
	liz.eventually(t, "/api/v1/orders/"+mine, "state", "open")
	if r := liz.do("POST", "/api/v1/orders/"+mine+"/payments", map[string]any{"method": method}, "Idempotency-Key", "pay"); r.status >= 300 {
		t.Errorf("pay: %d %v", r.status, r.body)
	}
	liz.eventually(t, "/api/v1/orders/"+mine, "state", "confirmed")
	liz.want(t, 400, "malformed", "POST", "/api/v1/orders/"+mine+"/payments", json.RawMessage(`{"method":"`+method+`","method":"`+method+`"}`), "Idempotency-Key", "pay2")
	if f.mode == "async" {
		f.until("the events have been seen", 20*time.Second, func() bool { return strings.Contains(f.events.String(), mine) })
	}

	secrets := map[string]string{
		"the token secret": tokenSecret, "the internal token": internalToken, "the webhook's secret": webhookSecret, "the operator's password": password,
		"a shopper's password": phrase, "a refresh token": refresh, "a new refresh token": fmt.Sprint(next.body["refresh_token"]),
		"an access token": liz.token, "its signature": liz.token[strings.LastIndex(liz.token, ".")+1:], "a means of payment": method, "a password's hash": "$argon2id$",
	}
	places := map[string]string{"the logs": f.logs.String(), "nginx's log": f.access(), "the events": f.events.String(), "the dead letters": f.deadLetters(t)}
	for i, admin := range f.admin {
		for _, path := range []string{"/metrics", "/debug/pprof/goroutine?debug=2"} {
			resp, err := f.client.Get(admin + path)
			must(t, err)
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			must(t, err)
			places[fmt.Sprint(path, " of process ", i)] = string(b)
		}
	}
	f.until("the traces have been sent", 20*time.Second, func() bool { return strings.Contains(f.traces.String(), "/api/v1/orders/:id/payments") })
	places["the traces"] = f.traces.String()
	var hooks strings.Builder
	for _, h := range f.hooks.all() {
		hooks.Write(h.body)
	}
	places["the webhook's bodies"] = hooks.String()
	for place, text := range places {
		if len(text) < 100 && (place != "the events" || f.mode == "async") {
			t.Errorf("%s: only %d bytes were looked through", place, len(text))
		}
		for name, secret := range secrets {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s: there is %s: %q", place, name, text[max(0, i-200):min(len(text), i+len(secret)+50)])
			}
		}
	}
	f.cannotStart(t)
}

// deadLetters makes dead letters, one of a copy of each kind of event that there was and one for each
// service, and returns what an operator is shown of them.
func (f *front) deadLetters(t *testing.T) string {
	t.Helper()
	conn, err := rabbit.Dial(f.amqp)
	must(t, err)
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	must(t, err)
	broken := map[string]string{"inventory.": "no event", "order.": "no event", "payment.": "no event", "notification.": "no event"}
	for line := range strings.Lines(f.events.String()) {
		if route, rest, _ := strings.Cut(line, " "); strings.Contains(rest, " {") {
			broken[route] = rest[strings.Index(rest, " {")+1 : len(rest)-2] // its last bracket is missing
		}
	}
	for route, body := range broken {
		service, _, _ := strings.Cut(route, ".")
		must(t, ch.PublishWithContext(t.Context(), "flashsale.events", service+".poison", true, false, rabbit.Publishing{Body: []byte(body), DeliveryMode: rabbit.Persistent}))
	}
	var shown string
	var list struct {
		Letters []struct{ ID, Service string }
	}
	f.until("the letters are dead", 60*time.Second, func() bool {
		shown = f.command("dlq", "list", "--json")
		must(t, json.Unmarshal([]byte(shown), &list))
		return len(list.Letters) >= len(broken)
	})
	boss := f.login(f.base, operator)
	for _, l := range list.Letters {
		shown += fmt.Sprint(boss.want(t, 200, "", "GET", "/api/v1/admin/dlq/"+l.Service+"/"+l.ID, nil).body)
	}
	return shown
}

// cannotStart: the errors of a process whose servers do not let it in do not repeat their passwords.
func (f *front) cannotStart(t *testing.T) {
	t.Helper()
	const secret = "pass-word-of-a-server"
	nobody := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	var all sync.WaitGroup
	for name, env := range map[string]string{
		"PostgreSQL": "DATABASE_URLS=inventory=postgres://flash:" + secret + "@" + nobody + "/inventory",
		"Redis":      "REDIS_URLS=redis://:" + secret + "@" + nobody,
		"RabbitMQ":   "AMQP_URL=amqp://flash:" + secret + "@" + nobody + "/",
		"no URL":     "AMQP_URL=amqp://flash:" + secret + "%zz@" + nobody + "/",
		"a cache":    "CACHE_URL=redis://:" + secret + "@" + nobody + "/x",
	} {
		all.Go(func() {
			args := []string{"serve", "--mode=async", "--listen=127.0.0.1:0"}
			if name == "PostgreSQL" {
				args = append(args, "--roles=inventory", "--internal-listen=127.0.0.1:0", "--peers=order=http://127.0.0.1:1,payment=http://127.0.0.1:1,catalog=http://127.0.0.1:1,account=http://127.0.0.1:1,notification=http://127.0.0.1:1")
			}
			cmd := exec.CommandContext(t.Context(), f.bin, args...)
			cmd.Env = append(f.env, env)
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			cmd.WaitDelay = 10 * time.Second
			timer := time.AfterFunc(25*time.Second, func() { _ = cmd.Process.Signal(os.Interrupt) })
			defer timer.Stop()
			out, _ := cmd.CombinedOutput()
			if len(out) < 20 || strings.Contains(string(out), secret) {
				t.Errorf("%s: a process that cannot start says: %s", name, out)
			}
		})
	}
	all.Wait()
}
