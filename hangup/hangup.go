// Package hangup lets a server that stops hang up on connections on which nothing has come. HTTP clients dial ahead:
// Go's keeps a connection that it had no use for, as browsers do, and fasthttp counts it among the requests under way until
// its time to read one is over, while a stop waits.
package hangup

import (
	"errors"
	"net"
	"sync"
	"time"
)

// Grace is how long a connection has for its first byte once HangUp was called: what a client has just written arrives.
const Grace = time.Second

// Listener is a listener that knows the connections on which nothing has come.
type Listener struct {
	net.Listener

	mu     sync.Mutex
	silent map[*conn]struct{}
	until  time.Time // zero before HangUp
}

// New returns a Listener in front of another one.
func New(l net.Listener) *Listener { return &Listener{Listener: l, silent: map[*conn]struct{}{}} }

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, of: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent[c] = struct{}{}
	return c, nil
}

// HangUp has reading from every connection on which nothing has come end within Grace, from those too that are accepted
// later.
func (l *Listener) HangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = time.Now().Add(Grace)
	for c := range l.silent {
		_ = c.Conn.SetReadDeadline(l.until) // one that fails is closed
	}
}

// conn is a connection of a Listener.
type conn struct {
	net.Conn
	of *Listener

	spoke  bool      // guarded by of.mu, but for the only reader, who sets it
	wanted time.Time // the server's own deadline; guarded by of.mu
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.spoke {
		c.speak()
	}
	return n, err
}

// speak notes that something has come: from now on the server's own deadline counts.
func (c *conn) speak() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.spoke = true
	delete(c.of.silent, c)
	if !c.of.until.IsZero() {
		_ = c.Conn.SetReadDeadline(c.wanted)
	}
}

// SetReadDeadline implements net.Conn. A connection on which nothing has come is not given more time than HangUp gave it.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.wanted = t
	if until := c.of.until; !c.spoke && !until.IsZero() && (t.IsZero() || t.After(until)) {
		t = until
	}
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.silent, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
