//go:build faults

package faults

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// TestTenThousand: ten thousand clients are connected and do nothing for now, while a sale runs in each wiring: everybody
// who buys is served as without them, the idle ones are still connected at the end, and each is answered.
// With -short in one wiring: nginx, which has them, is the same.
func TestTenThousand(t *testing.T) {
	modes := []string{"sync", "async"}
	if testing.Short() {
		modes = modes[:1]
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			const clients = 10_000
			s := newSite(t, mode)
			base := fmt.Sprintf("http://127.0.0.1:%d", s.port)
			conns := make([]net.Conn, clients)
			t.Cleanup(func() {
				for _, c := range conns {
					if c != nil {
						_ = c.Close()
					}
				}
			})
			began := time.Now()
			each(conns, func(n int) error {
				c, err := (&net.Dialer{Timeout: 20 * time.Second}).DialContext(t.Context(), "tcp", base[len("http://"):])
				if err != nil {
					return err
				}
				conns[n] = c
				return looks(c)
			}, t)
			t.Logf("%d connections in %s", clients, time.Since(began).Round(time.Millisecond))
			run, c, sale, done := s.crowd(base, 30, 90) // for less than the 75 s after which nginx lets the idle go
			s.settled(run, c, sale, done)
			s.auditIn(mode, 0)
			each(conns, func(n int) error { return looks(conns[n]) }, t)
			t.Logf("held for %s", time.Since(began).Round(time.Second))
		})
	}
}

// each does something for every connection, some at the same time, and fails with the first error.
func each(conns []net.Conn, do func(n int) error, t *testing.T) {
	t.Helper()
	var all sync.WaitGroup
	const width = 32
	errs := make([]error, width)
	for w := range width {
		all.Go(func() {
			for n := w; n < len(conns) && errs[w] == nil; n += width {
				if err := do(n); err != nil {
					errs[w] = fmt.Errorf("connection %d: %w", n, err)
				}
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// looks sends a request and reads its answer.
func looks(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "GET /api/v1/products?limit=1 HTTP/1.1\r\nHost: shop.example\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
