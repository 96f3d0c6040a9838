package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flashsale/catalog"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/testenv"
	"flashsale/transport"
	"flashsale/transport/amqp"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// deadly are events that no service can handle: each ends as a dead letter of its reason.
func deadly(n int) transport.Envelope {
	if n%2 == 0 {
		return transport.New("reservation.invented", transport.Catalog, id.Derive("subject", fmt.Sprint(n)), time.Now(), "", map[string]int{"n": n})
	}
	return transport.New(inventory.EventRequested, transport.Reservation, id.Derive("subject", fmt.Sprint(n)), time.Now(), "", map[string]string{"quantity": "many"})
}

// bury sends events that die and waits until they have.
func bury(t *testing.T, a *app, n int) {
	t.Helper()
	for i := range n {
		if _, err := a.wires.events.Send(t.Context(), transport.Inventory, deadly(i)); err != nil {
			t.Fatal(err)
		}
	}
	lettersAre(t, a, n)
}

// lettersAre waits until there are so many.
func lettersAre(t *testing.T, a *app, n int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		page, err := a.wires.deadLetters().List(t.Context(), transport.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Letters) == n {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d dead letters, want %d", len(page.Letters), n)
		case <-tick.C:
		}
	}
}

func apiDeadLetters(t *testing.T, s *stall) {
	op := s.operator
	const dlq = "/api/v1/admin/dlq"
	if got := fmt.Sprint(op.want(200, "", "GET", dlq, nil).body); got != "map[letters:[] partial:false]" {
		t.Errorf("no dead letters are %s", got)
	}
	for _, bad := range []string{
		"?service=nobody", "?service=catalog", "?reason=bad", "?older_than=soon", "?older_than=-1m", "?older_than=1", "?limit=101", "?limit=x", "?page=x", "?nothing=1", "?older_than=1000000h",
	} {
		op.want(400, "malformed", "GET", dlq+bad, nil)
	}
	for _, verb := range []string{"/replay", "/purge"} {
		for _, bad := range []string{
			`{}`, `{"all":false}`, `{"all":true,"service":"order"}`, `{"service":"nobody"}`, `{"reason":"bad"}`, `{"older_than":"x"}`, `{"older_than":5}`,
			`{"id":"x"}`, `{"all":true,"limit":0}`, `{"all":true,"limit":201}`, `{"all":true,"limit":-1}`, `{"limit":5}`,
		} {
			op.want(400, "malformed", "POST", dlq+verb, bad)
		}
	}
	one := dlq + "/inventory/" + deadly(1).ID.String()
	op.want(404, "not-found", "GET", one, nil)
	op.want(404, "not-found", "POST", one+"/replay", nil)
	op.want(404, "not-found", "POST", dlq+"/catalog/"+deadly(1).ID.String()+"/replay", nil)
	op.want(404, "not-found", "GET", dlq+"/inventory/x", nil)
	if got := op.want(200, "", "POST", dlq+"/replay", `{"all":true}`).body; got["replayed"] != 0.0 || got["more"] != false {
		t.Errorf("replayed of nothing: %v", got)
	}
	if got := op.want(200, "", "POST", dlq+"/purge", `{"service":"order"}`).body; got["purged"] != 0.0 || got["more"] != false {
		t.Errorf("purged of nothing: %v", got)
	}
	if s.mode == Sync {
		return
	}
	bury(t, s.house.apps[0], 4)
	var seen []string
	for path := dlq + "?limit=1&service=inventory"; path != ""; {
		page := op.want(200, "", "GET", path, nil)
		for _, v := range page.body["letters"].([]any) {
			l := v.(map[string]any)
			seen = append(seen, l["id"].(string))
			if l["body"] != nil || l["reason"] != "unknown_type" && l["reason"] != "malformed" || l["attempts"] != 1.0 {
				t.Errorf("letter %v", l)
			}
		}
		path = page.text("next")
	}
	if len(seen) != 4 {
		t.Errorf("listed %v", seen)
	}
	for query, want := range map[string]int{"?reason=unknown_type": 2, "?reason=malformed": 2, "?reason=attempts": 0, "?service=order": 0, "?older_than=1h": 0, "?older_than=0s": 4} {
		if got := op.want(200, "", "GET", dlq+query, nil).body["letters"].([]any); len(got) != want {
			t.Errorf("%s: %d letters, want %d", query, len(got), want)
		}
	}
	l := op.do("GET", one, nil)
	if l.status != 200 || l.text("type") != inventory.EventRequested || l.text("source") != "reservation" || !strings.Contains(l.text("error"), "payload") || !strings.Contains(l.text("body"), `"many"`) {
		t.Errorf("shown %v", l.body)
	}
	op.want(404, "not-found", "GET", dlq+"/order/"+deadly(1).ID.String(), nil)

	if got := op.want(200, "", "POST", one+"/replay", nil).body; got["replayed"] != 1.0 {
		t.Errorf("replayed %v", got)
	}
	again := op.eventually(one, "reason", "malformed") // it has died again
	if again.text("died_at") <= l.text("died_at") {
		t.Errorf("died %s, and again %s", l.text("died_at"), again.text("died_at"))
	}
	if got := op.want(200, "", "POST", dlq+"/replay", `{"reason":"unknown_type","limit":1}`).body; got["replayed"] != 1.0 || got["more"] != true {
		t.Errorf("replayed one of two: %v", got)
	}
	if got := op.want(200, "", "POST", dlq+"/purge", map[string]any{"id": deadly(1).ID}).body; got["purged"] != 1.0 {
		t.Errorf("purged %v", got)
	}
	op.want(404, "not-found", "GET", one, nil)
	op.eventually(dlq+"/inventory/"+deadly(0).ID.String(), "reason", "unknown_type")
	if got := op.want(200, "", "POST", dlq+"/purge", `{"all":true}`).body; got["purged"] != 3.0 || got["more"] != false {
		t.Errorf("purged the rest: %v", got)
	}
}

// flashsale runs the program and returns what it printed.
func flashsale(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := root()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := flashsale(t, args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

// TestDLQEmbedded: the commands work on the queue file of a stopped process, and only then.
func TestDLQEmbedded(t *testing.T) {
	t.Parallel()
	cfg := quick(Async)
	cfg.Data = filepath.Join(t.TempDir(), "data")
	h := &house{}
	a := h.run(t, cfg)
	bury(t, a, 4)
	if _, err := flashsale(t, "dlq", "list", "--data", cfg.Data); err == nil || !strings.Contains(err.Error(), "stop it") || !strings.Contains(err.Error(), "/api/v1/admin/dlq") {
		t.Errorf("while it runs: %v", err)
	}
	stopApp(t, a)
	exerciseDLQ(t, "--data", cfg.Data)
	// What was replayed waits for the next start, and dies again then.
	b := h.run(t, cfg)
	lettersAre(t, b, 3)
}

// TestDLQServers: the commands work on RabbitMQ, beside a service that runs.
func TestDLQServers(t *testing.T) {
	t.Parallel()
	url := testenv.RabbitMQ(t)
	tr := amqp.New(amqp.Options{URL: url, Log: slog.New(slog.DiscardHandler)})
	tr.Handle(transport.Inventory, transport.Only(eventsTo(transport.Inventory), func(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		_, err := transport.Decode[inventory.ReservationData](e)
		return nil, err
	}))
	if err := tr.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	bury(t, &app{wires: &wiring{events: tr, queue: tr}}, 4)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := tr.Stop(ctx); err != nil { // what is replayed is not to die again meanwhile
		t.Fatal(err)
	}
	exerciseDLQ(t, "--amqp-url", url)
}

// exerciseDLQ goes through the commands with the four letters of bury.
func exerciseDLQ(t *testing.T, where ...string) {
	t.Helper()
	run := func(args ...string) string {
		t.Helper()
		return must(t, append(append([]string{"dlq"}, args...), where...)...)
	}
	refused := func(say string, args ...string) {
		t.Helper()
		out, err := flashsale(t, append(append([]string{"dlq"}, args...), where...)...)
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%v: %v, want one that says %q\n%s", args, err, say, out)
		}
	}
	type list struct {
		Letters []map[string]any `json:"letters"`
		Next    string           `json:"next"`
	}
	read := func(args ...string) (l list) {
		t.Helper()
		if err := json.Unmarshal([]byte(run(append(args, "--json")...)), &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	human := run("list")
	for n := range 4 {
		if !strings.Contains(human, deadly(n).ID.String()) {
			t.Errorf("letter %d is not in the list:\n%s", n, human)
		}
	}
	if !strings.Contains(human, "unknown_type") || !strings.Contains(human, "malformed") || !strings.HasPrefix(human, "SERVICE") {
		t.Errorf("list:\n%s", human)
	}
	first := read("list", "--limit", "3")
	second := read("list", "--limit", "3", "--page", first.Next)
	if len(first.Letters) != 3 || len(second.Letters) != 1 || second.Next != "" {
		t.Errorf("pages %v\n%v", first, second)
	}
	if !strings.Contains(run("list", "--limit", "3"), "--page "+first.Next) {
		t.Error("the list does not say how to go on")
	}
	if l := read("list", "--reason", "malformed", "--service", "inventory"); len(l.Letters) != 2 {
		t.Errorf("malformed: %v", l)
	}
	if l := read("list", "--older-than", "1h"); l.Letters == nil || len(l.Letters) != 0 {
		t.Errorf("old: %v", l)
	}
	if out := run("list", "--service", "order"); out != "no dead letters\n" {
		t.Errorf("none: %q", out)
	}

	one := deadly(1).ID.String()
	shown := run("show", "inventory", one)
	for _, want := range []string{inventory.EventRequested, "malformed", "payload of", `"quantity": "many"`, "attempts", "inventory." + inventory.EventRequested, "reservation"} {
		if !strings.Contains(shown, want) {
			t.Errorf("shown without %q:\n%s", want, shown)
		}
	}
	var letter struct{ ID, Body string }
	if err := json.Unmarshal([]byte(run("show", "inventory", one, "--json")), &letter); err != nil || letter.ID != one || !strings.Contains(letter.Body, "specversion") {
		t.Errorf("shown %+v, %v", letter, err)
	}

	refused("dlq list --service order", "show", "order", one)
	refused("not a letter's id", "show", "inventory", "x")
	refused("they are inventory, order", "show", "nobody", one)
	refused("they are permanent, attempts", "list", "--reason", "bad")
	refused("--older-than is a duration", "list", "--older-than", "soon")
	refused("set 1 to 100", "list", "--limit", "0")
	refused("--page", "list", "--page", "x")
	refused("name a service and the letter's id", "show", "inventory")
	refused("--all", "replay")
	refused("name a service", "replay", one)
	refused("leave out", "replay", "inventory", one, "--all")
	refused("set 1 to 10000", "replay", "--all", "--rate", "0")
	refused("--yes", "purge", "--all")
	refused("--yes", "purge", "inventory", one)
	refused("choose", "purge", "--yes")
	if l := read("list"); len(l.Letters) != 4 {
		t.Fatalf("something was deleted: %v", l)
	}

	if out := run("replay", "inventory", one); out != "replayed 1\n" {
		t.Errorf("replay one: %q", out)
	}
	refused("may have been replayed", "replay", "inventory", one)
	if out := run("replay", "--reason", "unknown_type", "--service", "inventory", "--json"); !strings.Contains(out, `"replayed": 2`) {
		t.Errorf("replay two: %q", out)
	}
	refused("may have been", "purge", "inventory", one, "--yes")
	if out := run("purge", "inventory", deadly(3).ID.String(), "--yes"); out != "purged 1\n" {
		t.Errorf("purge one: %q", out)
	}
	if out := run("purge", "--all", "--yes"); out != "purged 0\n" {
		t.Errorf("purge the rest: %q", out)
	}
}

// TestDLQNowhere: a folder that is not there is a mistake; one that never had a queue has no letters.
func TestDLQNowhere(t *testing.T) {
	t.Parallel()
	if _, err := flashsale(t, "dlq", "list", "--data", filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Errorf("%v", err)
	}
	if out := must(t, "dlq", "list", "--data", t.TempDir()); out != "no dead letters\n" {
		t.Errorf("%q", out)
	}
	if _, err := flashsale(t, "dlq", "list", "--amqp-url", "amqp://guest:guest@127.0.0.1:1/"); err == nil || !strings.Contains(err.Error(), "RabbitMQ") {
		t.Errorf("%v", err)
	}
}

// TestEventsTo: every event of the flow goes to somebody, and who has no queue gets none.
func TestEventsTo(t *testing.T) {
	t.Parallel()
	for service, want := range map[transport.Service]string{transport.Inventory: catalog.EventScheduled, transport.Order: inventory.EventHeld, transport.Payment: inventory.EventPaying} {
		if got := eventsTo(service); got[want] < 1 {
			t.Errorf("%s gets %v, without %s", service, got, want)
		}
	}
	if got := eventsTo(transport.Catalog); len(got) != 0 {
		t.Errorf("the catalogue gets %v", got)
	}
}
