//go:build faults

package faults

import (
	"flashsale/testenv"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// wires are the proxies of one link, such as those to the shards, by what passes each way.
type wires struct{ requests, answers []*trouble }

// wire puts a proxy in front of host:port and returns its port.
func (w *wires) wire(t *testing.T, to string) int {
	t.Helper()
	port := testenv.FreePort(t)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, to, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), to)
	for stream, all := range map[string]*[]*trouble{"upstream": &w.requests, "downstream": &w.answers} {
		toxic, err := p.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"type":%q,"stream":%q}`, troubleName, stream)))
		must(t, err)
		*all = append(*all, toxic.Toxic.(*trouble))
	}
	must(t, p.Start())
	t.Cleanup(p.Stop)
	return port
}

// mode is what a wire does to what passes.
type mode int

const (
	through mode = iota
	cut          // closes a connection after so many bytes: in the middle of an answer, as a rule
	slow         // delays
	silent       // takes everything, and nothing of it arrives; the connection stays
)

// trouble is a toxic that is on its wire from the beginning and does what it is told, for adding and removing toxiproxy's
// own may wait for ever for a connection that is just failing, and removing its "timeout" closes what a lost host would
// leave half open.
type trouble struct {
	mu    sync.Mutex
	mode  mode
	bytes int
	delay time.Duration
	turn  int // rises when the mode changes
	lost  int // connections of turns before this one are half open for ever
}

// troubleName is what toxiproxy knows it by, once TestMain has registered it.
const troubleName = "trouble"

// link is what trouble knows of a connection.
type link struct {
	born int // in this turn
	turn int // that left is of
	left int // bytes, before it is cut
}

// NewState implements toxics.StatefulToxic.
func (w *trouble) NewState() any {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &link{born: w.turn}
}

// GetBufferSize implements toxics.BufferedToxic: what is delayed does not hold up what comes behind it.
func (w *trouble) GetBufferSize() int { return 1024 }

// set has the wire do something from now on. What was half open stays so.
func (w *trouble) set(m mode, bytes int, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn++
	if w.mode == silent {
		w.lost = w.turn
	}
	w.mode, w.bytes, w.delay = m, bytes, delay
}

// dark reports whether a connection is half open: not even its end is heard of at the other end.
func (w *trouble) dark(l *link) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mode == silent || l.born < w.lost
}

// now says what to do with some bytes of a connection: how many of them pass, when, and whether it is cut after them.
func (w *trouble) now(l *link, n int) (pass int, delay time.Duration, end bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.mode == silent || l.born < w.lost:
		return 0, 0, false
	case w.mode == slow:
		return n, w.delay, false
	case w.mode == cut:
		if l.turn != w.turn {
			l.turn, l.left = w.turn, w.bytes
		}
		pass = min(n, l.left)
		l.left -= pass
		return pass, 0, l.left == 0
	}
	return n, 0, false
}

// Pipe implements toxics.Toxic.
func (w *trouble) Pipe(stub *toxics.ToxicStub) {
	l := stub.State.(*link)
	for {
		select {
		case <-stub.Interrupt:
			return
		case c := <-stub.Input:
			if c == nil {
				if w.dark(l) {
					<-stub.Interrupt // nobody does: it stays until the proxy ends
				} else {
					stub.Close()
				}
				return
			}
			pass, delay, end := w.now(l, len(c.Data))
			if delay > 0 {
				time.Sleep(time.Until(c.Timestamp.Add(delay))) // the slow network itself
			}
			if c.Data = c.Data[:pass]; pass > 0 {
				stub.Output <- c
			}
			if end {
				stub.Close()
				drain(stub)
				return
			}
		}
	}
}

// drain takes what still comes, and lets it go, so that nobody waits to hand it over.
func drain(stub *toxics.ToxicStub) {
	for c := <-stub.Input; c != nil; {
		c = <-stub.Input
	}
}

// networkFaults are what happens to the connections between the services and a server, or between nginx and the services.
func networkFaults(wiring string) []fault {
	links := []string{"Redis", "PostgreSQL", "the services"}
	if wiring == "async" {
		links = append(links, "RabbitMQ")
	}
	// A connection is cut after so many bytes of answers: the greeting of a new one, and some requests'.
	bytes := map[string]int{"Redis": 12_000, "PostgreSQL": 6_000, "RabbitMQ": 6_000, "the services": 1_500}
	during := func(s *site, name string, both bool, m mode) {
		w := s.links[name]
		all := w.answers
		if both {
			all = append(all[:len(all):len(all)], w.requests...)
		}
		for _, one := range all {
			one.set(m, bytes[name], 200*time.Millisecond)
		}
		s.hang()
		for _, one := range all {
			one.set(through, 0, 0)
		}
	}
	var all []fault
	for _, name := range links {
		all = append(all,
			fault{name: "cut answers of " + name, hangs: true, short: name == "PostgreSQL", breaks: name == "the services", strike: func(s *site) { during(s, name, false, cut) }},
			fault{name: "200 ms to " + name, hangs: true, strike: func(s *site) { during(s, name, false, slow) }},
			fault{name: "half-open to " + name, hangs: true, strike: func(s *site) { during(s, name, true, silent) }})
	}
	return all
}
