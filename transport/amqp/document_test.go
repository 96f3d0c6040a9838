package amqp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flashsale/testenv"
	"flashsale/transport"
	"flashsale/transport/amqp"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// document is what this package is held to of docs/asyncapi.yaml.
type document struct {
	Channels map[string]struct {
		Parameters map[string]parameter
		Bindings   map[string]any
		XBindings  []struct {
			Exchange string
			Key      string `yaml:"routing-key"`
		} `yaml:"x-bindings"`
		Arguments map[string]any `yaml:"x-queue-arguments"`
	}
	Components struct {
		Parameters      map[string]parameter
		ChannelBindings map[string]struct {
			AMQP struct{ Exchange map[string]any }
		} `yaml:"channelBindings"`
	}
	whole any
}

type parameter struct {
	Ref  string `yaml:"$ref"`
	Enum []string
}

func readDocument(t *testing.T) document {
	t.Helper()
	b, err := os.ReadFile("../../docs/asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := errors.Join(yaml.Unmarshal(b, &d), yaml.Unmarshal(b, &d.whole)); err != nil {
		t.Fatal(err)
	}
	return d
}

// queue is a queue as the broker has it and as the document says it.
type queue struct {
	durable, exclusive, autoDelete bool
	arguments                      string // JSON
	bindings                       []string
}

// queues are those of the document: a channel's parameters stand for every combination of their values.
func (d document) queues(t *testing.T) map[string]queue {
	t.Helper()
	out := map[string]queue{}
	for _, c := range d.Channels {
		if c.Arguments == nil {
			continue
		}
		all := []map[string]string{{}}
		for name, p := range c.Parameters {
			if p.Ref != "" {
				p = d.Components.Parameters[p.Ref[strings.LastIndex(p.Ref, "/")+1:]]
			}
			var more []map[string]string
			for _, values := range all {
				for _, v := range p.Enum {
					next := map[string]string{name: v}
					for k, v := range values {
						next[k] = v
					}
					more = append(more, next)
				}
			}
			all = more
		}
		declared := c.Bindings["amqp"].(map[string]any)["queue"].(map[string]any)
		for _, values := range all {
			fill := func(s string) string {
				for k, v := range values {
					s = strings.ReplaceAll(s, "{"+k+"}", v)
				}
				return s
			}
			arguments := map[string]any{}
			for k, v := range c.Arguments {
				if s, ok := v.(string); ok && fill(s) != s {
					if v = fill(s); strings.Trim(fill(s), "0123456789") == "" {
						v = json.Number(fill(s))
					}
				}
				arguments[k] = v
			}
			b, err := json.Marshal(arguments)
			if err != nil {
				t.Fatal(err)
			}
			q := queue{declared["durable"] == true, declared["exclusive"] == true, declared["autoDelete"] == true, string(b), nil}
			for _, b := range c.XBindings {
				q.bindings = append(q.bindings, b.Exchange+" "+fill(b.Key))
			}
			out[fill(declared["name"].(string))] = q
		}
	}
	return out
}

func ask(t *testing.T, path string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(testenv.RabbitAPI(t, http.MethodGet, path, "")), into); err != nil {
		t.Fatal(err)
	}
}

// TestTopologyIsTheDocument: what the program declares with its defaults is what the document says:
// exchanges, queues with their arguments, and bindings.
func TestTopologyIsTheDocument(t *testing.T) {
	t.Parallel()
	url := testenv.RabbitMQ(t)
	start(t, amqp.Options{URL: url, Log: slog.New(slog.DiscardHandler)}, nil)
	vhost := url[strings.LastIndex(url, "/")+1:]
	d := readDocument(t)
	want := d.queues(t)
	if len(want) != 4*(1+5+1+3) {
		t.Errorf("the document has %d queues", len(want))
	}
	var queues []struct {
		Name               string
		Durable, Exclusive bool
		AutoDelete         bool `json:"auto_delete"`
		Arguments          map[string]json.RawMessage
	}
	until(t, "the management API knows every queue", func() bool {
		queues = nil
		ask(t, "/api/queues/"+vhost+"?disable_stats=true&enable_queue_totals=true", &queues)
		return len(queues) >= len(want)
	})
	var bindings []struct {
		Source, Destination string
		Key                 string `json:"routing_key"`
	}
	ask(t, "/api/bindings/"+vhost, &bindings)
	got := map[string]queue{}
	for _, q := range queues {
		b, err := json.Marshal(q.Arguments)
		if err != nil {
			t.Fatal(err)
		}
		now := queue{q.Durable, q.Exclusive, q.AutoDelete, string(b), nil}
		for _, b := range bindings {
			if b.Destination == q.Name && b.Source != "" { // every queue is bound to the default exchange
				now.bindings = append(now.bindings, b.Source+" "+b.Key)
			}
		}
		got[q.Name] = now
	}
	for name, q := range want {
		if !reflect.DeepEqual(got[name], q) {
			t.Errorf("queue %s\nis   %+v\nsaid %+v", name, got[name], q)
		}
	}
	for name := range got {
		if _, said := want[name]; !said {
			t.Errorf("the document does not have the queue %s", name)
		}
	}
	said := d.Components.ChannelBindings["events"].AMQP.Exchange
	var exchange map[string]any
	ask(t, "/api/exchanges/"+vhost+"/flashsale.events", &exchange)
	if exchange["name"] != said["name"] || exchange["type"] != said["type"] || exchange["durable"] != said["durable"] || exchange["auto_delete"] != said["autoDelete"] {
		t.Errorf("exchange %v, said %v", exchange, said)
	}
}

// TestHeadersAreTheDocument: messages on the ladder, dead letters of both kinds and replayed ones carry
// the headers that the document says, all of them and no others.
func TestHeadersAreTheDocument(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	o.Delays, o.Pauses = []time.Duration{time.Hour}, []time.Duration{time.Hour}
	answer := func(err error) transport.Handler {
		return func(context.Context, transport.Envelope) ([]transport.Envelope, error) { return nil, err }
	}
	ch := channel(t, o.URL)
	take := func(queue string) (d rabbit.Delivery) {
		defer func() { delete(d.Headers, "x-delivery-count") }() // the broker's own
		until(t, "a message in "+queue, func() bool {
			var ok bool
			var err error
			if d, ok, err = ch.Get(queue, true); err != nil {
				t.Fatal(err)
			}
			return ok
		})
		return d
	}
	headers := map[string][]rabbit.Table{}
	for n, c := range []struct {
		err      error
		attempts int
		queue    string
		schema   string
	}{
		{errors.New("the database is away"), 2, "flashsale.inventory.retry.3600000", "RetryHeaders"},
		{transport.Permanent(errors.New("never")), 2, "flashsale.inventory.dead", "LetterHeaders"},
		{transport.ErrUnavailable, 1, "flashsale.inventory.dead.3600000", "LetterHeaders"},
	} {
		o.Attempts = c.attempts
		tr := start(t, o, answer(c.err))
		if _, err := tr.Send(t.Context(), transport.Inventory, event(n)); err != nil {
			t.Fatal(err)
		}
		headers[c.schema] = append(headers[c.schema], take(c.queue).Headers)
		if err := tr.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	body, err := transport.Marshal(event(9))
	if err != nil {
		t.Fatal(err)
	}
	publish(t, ch, "flashsale.dead", "inventory", body)
	if _, err := amqp.New(o).Replay(t.Context(), transport.Filter{}, 1000); err != nil {
		t.Fatal(err)
	}
	tr := start(t, o, nil)
	if _, err := tr.Send(t.Context(), transport.Inventory, event(10)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d := take("flashsale.inventory")
		if d.Headers["traceparent"] == nil { // a stranger's letter had none
			d.Headers["traceparent"] = ""
		}
		headers["Headers"] = append(headers["Headers"], d.Headers)
	}

	d := readDocument(t)
	b, err := json.Marshal(d.whole)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	schemas := doc.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any)
	for name, all := range headers {
		properties := schemas[name].(map[string]any)["properties"].(map[string]any)
		schemas[name].(map[string]any)["additionalProperties"] = false
		for p := range properties {
			if !slices.ContainsFunc(all, func(h rabbit.Table) bool { return h[p] != nil }) {
				t.Errorf("%s: no message has %s", name, p)
			}
		}
	}
	const url = "https://flashsale.example/asyncapi.json"
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(url, doc); err != nil {
		t.Fatal(err)
	}
	for name, all := range headers {
		schema, err := compiler.Compile(url + "#/components/schemas/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range all {
			v := map[string]any{}
			for k, value := range h {
				if reflect.TypeOf(value) != nil && reflect.TypeOf(value).Kind() != reflect.String {
					value = json.Number(fmt.Sprint(value))
				}
				v[k] = value
			}
			if err := schema.Validate(v); err != nil {
				t.Errorf("%s: %v\n%v", name, h, err)
			}
		}
	}
}
