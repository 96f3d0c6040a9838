package main

import (
	"bytes"
	"encoding/json"
	"flashsale/bench/journey"
	"flashsale/catalog"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/payment/simprovider"
	"flashsale/transport"
	"fmt"
	"maps"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// eventDoc is docs/asyncapi.yaml, its schemas closed: a property that is not in the document is a
// mistake here, though a consumer must ignore it.
type eventDoc struct {
	root     map[string]any
	compiler *jsonschema.Compiler
}

const eventDocURL = "https://flashsale.example/asyncapi.json"

func readEventDoc(t *testing.T) *eventDoc {
	t.Helper()
	text, err := os.ReadFile("../../docs/asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if doc, err = jsonschema.UnmarshalJSON(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	d := &eventDoc{root: doc.(map[string]any), compiler: jsonschema.NewCompiler()}
	for _, s := range d.at("/components/schemas") {
		if s := s.(map[string]any); s["properties"] != nil {
			s["additionalProperties"] = false
		}
	}
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(eventDocURL, doc); err != nil {
		t.Fatal(err)
	}
	return d
}

// at returns the object at a JSON pointer, empty when there is none.
func (d *eventDoc) at(pointer string) map[string]any {
	n := d.root
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		n, _ = n[name].(map[string]any)
	}
	return n
}

// ref returns the place that an object points to, or "".
func ref(v any) string {
	m, _ := v.(map[string]any)
	s, _ := m["$ref"].(string)
	return strings.TrimPrefix(s, "#")
}

func (d *eventDoc) validate(pointer string, v any) error {
	s, err := d.compiler.Compile(eventDocURL + "#" + pointer)
	if err != nil {
		return err
	}
	return s.Validate(v)
}

func channelTo(s transport.Service) string {
	return "/channels/to" + strings.ToUpper(string(s[:1])) + string(s[1:])
}

// TestEventDocumentIsTheTable: every event of the table is in the document with its channel and its
// version, and the document has no other.
func TestEventDocumentIsTheTable(t *testing.T) {
	t.Parallel()
	d := readEventDoc(t)
	inChannels := map[string]bool{}
	for _, r := range engine.Table() {
		channel := channelTo(r.To)
		if got := ref(d.at(channel + "/messages")[r.Event]); got != "/components/messages/"+r.Event {
			t.Errorf("%s: %s has the message %q", r.Event, channel, got)
		}
		inChannels[channel+" "+r.Event] = true
		says, _ := json.Marshal(d.at("/components/messages/" + r.Event)["payload"])
		for _, want := range []string{`"type":{"const":"flashsale.` + r.Event + `"}`, fmt.Sprintf(`"schemaversion":{"const":%d}`, r.Version), fmt.Sprintf(`.v%d"}`, r.Version)} {
			if !strings.Contains(string(says), want) {
				t.Errorf("%s: the payload %s does not say %s", r.Event, says, want)
			}
		}
	}
	for name := range d.at("/channels") {
		if !strings.HasPrefix(name, "to") {
			continue
		}
		for event := range d.at("/channels/" + name + "/messages") {
			if !inChannels["/channels/"+name+" "+event] {
				t.Errorf("the table does not send %s by the channel %s", event, name)
			}
		}
	}
	known := slices.Collect(maps.Keys(d.at("/components/messages")))
	for _, name := range known {
		if strings.Contains(name, ".") && !slices.ContainsFunc(engine.Table(), func(r engine.Route) bool { return r.Event == name }) {
			t.Errorf("%s is not in the table", name)
		}
	}
}

// TestEventsPageIsTheTable: the rows of docs/events.md are the table's routes, and name the payloads that
// the document has.
func TestEventsPageIsTheTable(t *testing.T) {
	t.Parallel()
	d := readEventDoc(t)
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| (\\w+) \\| (\\w+) \\| .* \\| (\\w+) \\|$").FindAllStringSubmatch(string(page), -1) {
		got = append(got, strings.Join(row[1:], " "))
	}
	for _, r := range engine.Table() {
		says, _ := json.Marshal(d.at("/components/messages/" + r.Event)["payload"])
		source := regexp.MustCompile(`"/flashsale/(\w+)"`).FindStringSubmatch(string(says))
		payload := regexp.MustCompile(`schemas/(\w+)\.v\d`).FindStringSubmatch(string(says))
		if source == nil || payload == nil {
			t.Fatalf("%s: %s", r.Event, says)
		}
		want = append(want, strings.Join([]string{r.Event, source[1], string(r.To), payload[1]}, " "))
	}
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("docs/events.md has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestEventDocumentHoldsTogether: every reference leads somewhere, every operation's messages are its
// channel's, every channel is sent to and received from, and nothing is there for nobody.
func TestEventDocumentHoldsTogether(t *testing.T) {
	t.Parallel()
	d := readEventDoc(t)
	used := map[string]bool{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if to := ref(v); to != "" {
				used[to] = true
				if d.at(to) == nil {
					t.Errorf("%s: %s is not there", at, to)
				}
			}
			for name, child := range v {
				walk(at+"/"+name, child)
			}
		case []any:
			for i, child := range v {
				walk(fmt.Sprint(at, "/", i), child)
			}
		}
	}
	walk("", d.root)
	for kind := range d.at("/components") {
		for name := range d.at("/components/" + kind) {
			if !used["/components/"+kind+"/"+name] {
				t.Errorf("nothing refers to /components/%s/%s", kind, name)
			}
		}
	}
	done := map[string]bool{}
	for name := range d.at("/operations") {
		op := d.at("/operations/" + name)
		channel := ref(op["channel"])
		done[fmt.Sprint(op["action"], " ", channel)] = true
		messages, _ := op["messages"].([]any)
		for _, m := range messages {
			if !strings.HasPrefix(ref(m), channel+"/messages/") {
				t.Errorf("the operation %s on %s has the message %s", name, channel, ref(m))
			}
		}
	}
	for name := range d.at("/channels") {
		for _, action := range []string{"send", "receive"} {
			byTTL := action == "receive" && (name == "retry" || name == "parked") // messages fall out of these by themselves
			if done[action+" /channels/"+name] == byTTL {
				t.Errorf("%s on the channel %s: %v", action, name, !byTTL)
			}
		}
	}
}

// TestEventSchemasAreTheStructs: the properties of a payload's schema are those of the struct that is
// sent, and those that are always there are required.
func TestEventSchemasAreTheStructs(t *testing.T) {
	t.Parallel()
	d := readEventDoc(t)
	elsewhere := map[string]string{"Reservation.v1.fingerprint": "only in the answer to a question, which is no event"}
	for name, v := range map[string]any{
		"Claim.v1": inventory.ClaimData{}, "Leg.v1": inventory.LegData{}, "Cancel.v1": inventory.CancelData{}, "Reservation.v1": inventory.ReservationData{},
		"Payment.v1": payment.Data{}, "Order.v1": order.Data{}, "Sale.v1": catalog.SaleData{}, "SaleItem.v1": catalog.ItemData{},
		"StockAddition.v1": catalog.StockData{}, "Money": money.Money{},
	} {
		var all, required []string
		for i := range reflect.TypeOf(v).NumField() {
			tag, options, _ := strings.Cut(reflect.TypeOf(v).Field(i).Tag.Get("json"), ",")
			if elsewhere[name+"."+tag] != "" {
				continue
			}
			all = append(all, tag)
			if options == "" {
				required = append(required, tag)
			}
		}
		slices.Sort(all)
		if got := slices.Sorted(maps.Keys(d.at("/components/schemas/" + name + "/properties"))); !slices.Equal(got, all) {
			t.Errorf("%s has %v, the struct %v", name, got, all)
		}
		var got []string
		for _, r := range d.at("/components/schemas/" + name)["required"].([]any) {
			got = append(got, r.(string))
		}
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(required))) {
			t.Errorf("%s requires %v, the struct always has %v", name, got, required)
		}
	}
}

// see notes which properties of a schema's components a value has.
func (d *eventDoc) see(schema any, v any, name string, seen map[string]bool) {
	if to := ref(schema); to != "" {
		d.see(d.at(to), v, strings.TrimPrefix(to, "/components/schemas/"), seen)
		return
	}
	s, _ := schema.(map[string]any)
	parts, _ := s["allOf"].([]any)
	for _, part := range parts {
		d.see(part, v, name, seen)
	}
	switch v := v.(type) {
	case map[string]any:
		properties, _ := s["properties"].(map[string]any)
		for key, p := range properties {
			if value, has := v[key]; has {
				seen[name+"."+key] = true
				d.see(p, value, name, seen)
			}
		}
	case []any:
		for _, item := range v {
			d.see(s["items"], item, name, seen)
		}
	}
}

// tap records a copy of every message that goes through the exchange of events.
type tap struct {
	ch *rabbit.Channel
	mu sync.Mutex
	ds []rabbit.Delivery
}

func newTap(t *testing.T, url string) *tap {
	t.Helper()
	c, err := rabbit.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = c.Close(); wg.Wait() })
	if p.ch, err = c.Channel(); err != nil {
		t.Fatal(err)
	}
	q, err := p.ch.QueueDeclare("", false, true, true, false, nil)
	if err == nil {
		err = p.ch.QueueBind(q.Name, "#", "flashsale.events", false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	ds, err := p.ch.ConsumeWithContext(t.Context(), q.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		for d := range ds {
			p.mu.Lock()
			p.ds = append(p.ds, d)
			p.mu.Unlock()
		}
	})
	return p
}

func (p *tap) all() []rabbit.Delivery {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ds)
}

// first returns the first message that is so, after waiting for it.
func (p *tap) first(t *testing.T, what string, so func(rabbit.Delivery) bool) rabbit.Delivery {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-tick.C {
		if ds := p.all(); slices.ContainsFunc(ds, so) {
			return ds[slices.IndexFunc(ds, so)]
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s in %d messages", what, len(p.all()))
		}
	}
}

func ofType(kind string) func(rabbit.Delivery) bool {
	return func(d rabbit.Delivery) bool { return d.Type == kind }
}

// TestEventsOfAJourney: everything that a real flow sends over RabbitMQ is what the document says, and
// the document says nothing that no flow sends.
func TestEventsOfAJourney(t *testing.T) {
	t.Parallel()
	d := readEventDoc(t)
	cfg := serverConfig(t, Async)
	h := &house{}
	a := h.run(t, cfg)
	h.base, h.audit, h.sales = a.url(), a.audit, a.saleReader()
	events := newTap(t, cfg.AMQPURL)
	everyEvent(t, h, a, events)
	for _, r := range engine.Table() {
		events.first(t, r.Event, ofType(r.Event))
	}
	seen, sent := map[string]bool{}, map[string]bool{}
	for _, m := range events.all() {
		_, kind, _ := strings.Cut(m.RoutingKey, ".")
		if err := d.validate("/components/schemas/Headers", plainTable(m.Headers)); err != nil {
			t.Errorf("%s has the headers %v: %v", m.RoutingKey, m.Headers, err)
		}
		if m.Type != kind || m.DeliveryMode != rabbit.Persistent || m.Timestamp.IsZero() || m.MessageId == "" {
			t.Errorf("%s has the properties %+v", m.RoutingKey, m)
		}
		d.see(map[string]any{"$ref": "#/components/schemas/Headers"}, plainTable(m.Headers), "", seen)
		service, _, _ := strings.Cut(m.RoutingKey, ".")
		for _, body := range d.eventsIn(t, m) {
			at := "/components/messages/" + kind + "/payload"
			if err := d.validate(at, body); err != nil {
				t.Errorf("%s: %s\n%v", m.RoutingKey, m.Body, err)
			}
			d.see(d.at(at), body, "", seen)
			source := strings.TrimPrefix(body.(map[string]any)["source"].(string), "/flashsale/")
			sent[source+" "+channelTo(transport.Service(service))+"/messages/"+kind] = true
		}
	}
	d.everythingSeen(t, seen, sent)
}

// eventsIn returns the events that a message carries.
func (d *eventDoc) eventsIn(t *testing.T, m rabbit.Delivery) []any {
	t.Helper()
	body, err := jsonschema.UnmarshalJSON(bytes.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	kind, _, _ := strings.Cut(m.ContentType, ";")
	switch {
	case kind == d.root["defaultContentType"]:
		return []any{body}
	case kind != d.at("/components/messages/batch")["contentType"]:
		t.Errorf("%s has the content type %q", m.RoutingKey, m.ContentType)
		return nil
	}
	if err := d.validate("/components/messages/batch/payload", body); err != nil {
		t.Errorf("%s: %s\n%v", m.RoutingKey, m.Body, err)
	}
	return body.([]any)
}

// everythingSeen holds the document to what was recorded: properties, and who sends what to whom.
func (d *eventDoc) everythingSeen(t *testing.T, seen, sent map[string]bool) {
	t.Helper()
	unseen := map[string]string{
		"Headers.x-original-route": "only on messages that were retried or replayed, which go past the exchange",
	}
	for name := range d.at("/components/schemas") {
		if name == "RetryHeaders" || name == "LetterHeaders" { // transport/amqp holds these to its messages
			continue
		}
		for p := range d.at("/components/schemas/" + name + "/properties") {
			path := name + "." + p
			if explained := unseen[path] != ""; seen[path] == explained {
				t.Errorf("%s: seen %v, explained %v", path, seen[path], explained)
			}
		}
	}
	said := map[string]bool{}
	for name := range d.at("/operations") {
		op := d.at("/operations/" + name)
		if op["action"] != "send" || !strings.HasPrefix(ref(op["channel"]), "/channels/to") {
			continue
		}
		for _, m := range op["messages"].([]any) {
			for source := range strings.SplitSeq("catalog reservation inventory payment order", " ") {
				if strings.HasPrefix(name, source) {
					said[source+" "+ref(m)] = true
				}
			}
		}
	}
	if got, want := slices.Sorted(maps.Keys(sent)), slices.Sorted(maps.Keys(said)); !slices.Equal(got, want) {
		t.Errorf("sent were\n%s\nthe operations say\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// plainTable is a table of headers as JSON has it.
func plainTable(h rabbit.Table) map[string]any {
	out := map[string]any{}
	for k, v := range h {
		switch n := v.(type) {
		case int32:
			v = json.Number(fmt.Sprint(n))
		case int64:
			v = json.Number(fmt.Sprint(n))
		}
		out[k] = v
	}
	return out
}

// everyEvent has a house send every event of the table: a crowd, and by hand what a crowd does not do.
func everyEvent(t *testing.T, h *house, a *app, events *tap) {
	t.Helper()
	c := crowd(h, 30, 12)
	c.Limit, c.Hold = 5, time.Minute
	t.Cleanup(c.Client.CloseIdleConnections)
	sale, err := journey.OpenSale(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	journey.New(c, sale).Do(t.Context())

	op := person{t: t, client: c.Client, base: h.base}.login(testOperator, testPassword)
	one := person{t: t, client: c.Client, base: h.base}.register("one")
	op.do(http.MethodPost, "/api/v1/admin/sales/"+sale.ID+"/items/"+sale.SKU+"/stock", map[string]any{"quantity": 5}, "Idempotency-Key", "more")
	reserve := func(key string, more map[string]any) string {
		body := map[string]any{"sale_id": sale.ID, "sku": sale.SKU, "quantity": 1}
		maps.Copy(body, more)
		r := one.want(http.StatusAccepted, "", http.MethodPost, "/api/v1/reservations", body, "Idempotency-Key", key, "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		one.eventually("/api/v1/reservations/"+r.text("id"), "state", "held")
		return r.text("id")
	}
	cart := one.want(http.StatusCreated, "", http.MethodPost, "/api/v1/carts", nil).text("id")
	one.want(http.StatusOK, "", http.MethodPost, "/api/v1/carts/"+cart+"/items", map[string]any{"sale_id": sale.ID, "sku": sale.SKU, "quantity": 1})
	bought := reserve("bought", map[string]any{"cart_id": cart, "unit_price": map[string]any{"amount": 9900, "currency": "EUR"}})
	one.do(http.MethodPost, "/api/v1/orders/"+bought+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "p1")
	one.eventually("/api/v1/orders/"+bought, "state", "confirmed")
	op.do(http.MethodPost, "/api/v1/admin/orders/"+bought+"/refund", nil)
	one.eventually("/api/v1/orders/"+bought, "state", "refunded")

	declined := reserve("declined", nil)
	one.do(http.MethodPost, "/api/v1/orders/"+declined+"/payments", map[string]any{"method": "tok_decline"}, "Idempotency-Key", "p2")
	one.eventually("/api/v1/orders/"+declined, "state", "cancelled")

	cancelled := reserve("cancelled", nil)
	one.do(http.MethodDelete, "/api/v1/reservations/"+cancelled, nil)
	one.eventually("/api/v1/reservations/"+cancelled, "state", "cancelled")
	payLate(t, a, cancelled)

	// A claim that is delivered twice.
	claim := events.first(t, "claim", ofType(inventory.EventRequested))
	if err := events.ch.PublishWithContext(t.Context(), claim.Exchange, claim.RoutingKey, true, false, rabbit.Publishing{
		ContentType: claim.ContentType, DeliveryMode: claim.DeliveryMode, MessageId: "again", Timestamp: claim.Timestamp, Type: claim.Type, Headers: claim.Headers, Body: claim.Body,
	}); err != nil {
		t.Fatal(err)
	}
	events.first(t, "replayed decision", func(d rabbit.Delivery) bool { return strings.Contains(string(d.Body), `"replayed":true`) })
	op.do(http.MethodPost, "/api/v1/admin/sales/"+sale.ID+"/end", nil)
}

// payLate captures money for a reservation that is cancelled already, as a provider that answers late
// and a payment service that had been away would.
func payLate(t *testing.T, a *app, reservation string) {
	t.Helper()
	rid, err := id.Parse(reservation)
	if err != nil {
		t.Fatal(err)
	}
	row, err := a.stores.ledger.Find(t.Context(), rid)
	if err != nil {
		t.Fatal(err)
	}
	provider, err := simprovider.New(a.stores.payments, simprovider.Faults{}, sleep)
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := a.stores.payments.Begin(t.Context(), payment.Payment{
		ID: payment.NewID(row.User, rid, "late"), Order: rid, User: row.User, Amount: row.UnitPrice, Method: simprovider.MethodOK, State: payment.Requested,
	})
	if err != nil {
		t.Fatal(err)
	}
	charge, err := provider.Charge(t.Context(), p.ID, p.Amount, p.Method)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []payment.Step{
		{Payment: p.ID, From: []payment.State{payment.Requested}, To: payment.Charging},
		{Payment: p.ID, From: []payment.State{payment.Charging}, To: payment.Captured, ProviderRef: charge.Ref},
	} {
		if _, err := a.stores.payments.Advance(t.Context(), step); err != nil {
			t.Fatal(err)
		}
	}
}
