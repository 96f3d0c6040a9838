package httptransport

import (
	"bytes"
	"context"
	"errors"
	"flashsale/transport"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

// client makes single calls: it neither retries nor follows redirects. fasthttp's costs half of the CPU of net/http's,
// which has two goroutines a connection, and leaves two things to us: to see before a call that the other side has closed
// the connection, and to end calls under way.
type client struct {
	http  *fasthttp.Client
	token string

	mu     sync.Mutex
	closed bool
	open   map[*conn]struct{}
}

// Errors of a call of which no byte has left. After errClosed there is another connection to try.
var (
	errNotSent = errors.New("no connection")
	errClosed  = fmt.Errorf("%w: the other side had closed it", errNotSent)
)

const dialTimeout = 2 * time.Second

func newClient(token string, timeout time.Duration) *client {
	c := &client{token: token, open: map[*conn]struct{}{}}
	dialer := &net.Dialer{Timeout: dialTimeout}
	c.http = &fasthttp.Client{
		Dial: func(addr string) (net.Conn, error) {
			d, err := dialer.Dial("tcp", addr)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errNotSent, err)
			}
			return c.add(d)
		},
		MaxConnsPerHost:     math.MaxInt,                                  // the bulkhead of the peer bounds them
		MaxIdleConnDuration: time.Minute, ConnPoolStrategy: fasthttp.LIFO, // after a burst most are not used any more, and go
		MaxIdemponentCallAttempts: 1, MaxResponseBodySize: maxAnswer, NoDefaultUserAgentHeader: true,
		WriteTimeout: timeout, // bounds the handshake of TLS, too
	}
	return c
}

// conn is a connection to a peer.
type conn struct {
	net.Conn
	raw  syscall.RawConn
	used bool
	of   *client
}

func (c *client) add(d net.Conn) (net.Conn, error) {
	v := &conn{Conn: d, of: c}
	if s, ok := d.(syscall.Conn); ok {
		v.raw, _ = s.SyscallConn()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = d.Close()
		return nil, fmt.Errorf("%w: %w", errNotSent, transport.ErrStopped)
	}
	c.open[v] = struct{}{}
	return v, nil
}

// close ends the calls under way: whether they were handled is not known.
func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for v := range c.open {
		_ = v.Conn.Close()
	}
	clear(c.open)
}

// Close implements net.Conn.
func (v *conn) Close() error {
	v.of.mu.Lock()
	delete(v.of.open, v)
	v.of.mu.Unlock()
	return v.Conn.Close()
}

// SetWriteDeadline is what fasthttp does first with a connection that it takes for a call. One on which something came, or
// the end, while nobody had asked is of no use: the peer was stopped, say. Were it written to, nobody could tell that the
// call was not handled.
func (v *conn) SetWriteDeadline(t time.Time) error {
	if v.used && v.raw != nil {
		var one [1]byte
		quiet := false
		err := v.raw.Control(func(fd uintptr) {
			_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			quiet = errors.Is(err, syscall.EAGAIN)
		})
		if err != nil || !quiet {
			return errClosed
		}
	}
	v.used = true
	return v.Conn.SetWriteDeadline(t)
}

// post makes the call until the deadline of ctx, which must have one, and up to dialTimeout longer if it has to dial. It
// does not end when ctx is cancelled before.
func (c *client) post(ctx context.Context, url, kind string, body []byte, trace string) ([]byte, int, transport.Reason, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, "", fmt.Errorf("%w: %w", errNotSent, err)
	}
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI(url)
	req.Header.SetMethod(http.MethodPost)
	req.Header.SetContentType(kind)
	req.Header.Set("Authorization", "Bearer "+c.token)
	if trace != "" {
		req.Header.Set("traceparent", trace)
	}
	at, _ := ctx.Deadline()
	req.Header.Set(deadlineKey, strconv.FormatInt(max(time.Until(at).Milliseconds(), 1), 10))
	req.SetBodyRaw(body)
	err := c.http.DoDeadline(req, resp, at)
	for errors.Is(err, errClosed) { // it is out of the pool, and a new one is none of these
		err = c.http.DoDeadline(req, resp, at)
	}
	switch n := resp.Header.ContentLength(); {
	case errors.Is(err, fasthttp.ErrTimeout):
		return nil, 0, "", fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	case err != nil:
		return nil, 0, "", err
	case n >= 0 && n != len(resp.Body()): // fasthttp takes a reset within the body for its end
		return nil, 0, "", io.ErrUnexpectedEOF
	}
	return bytes.Clone(resp.Body()), resp.StatusCode(), transport.Reason(resp.Header.Peek(reasonKey)), nil
}
