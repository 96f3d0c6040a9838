package testenv

import (
	"context"
	"net"
	"sync"
	"testing"
)

// Between stands between programs and a server, host:port, until the test ends, and returns its own address. carry has each
// connection and that to the server, which are closed when it returns or the test ends.
func Between(t testing.TB, server string, carry func(in, out *net.TCPConn)) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		end()
		all.Wait()
	})
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(ctx, "tcp", server)
			if err != nil { // the server is away
				_ = in.Close()
				continue
			}
			closed := func() { _ = in.Close(); _ = out.Close() }
			stop := context.AfterFunc(ctx, closed)
			all.Go(func() {
				defer stop()
				defer closed()
				carry(in.(*net.TCPConn), out.(*net.TCPConn))
			})
		}
	})
	return l.Addr().String()
}
