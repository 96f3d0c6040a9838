package hangup_test

import (
	"errors"
	"flashsale/hangup"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// open accepts one connection, whose reader has a minute, and returns both ends.
func open(t *testing.T, l *hangup.Listener) (client, server net.Conn) {
	t.Helper()
	client, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	must(t, err)
	t.Cleanup(func() { _ = client.Close() })
	server, err = l.Accept()
	must(t, err)
	t.Cleanup(func() { _ = server.Close() })
	must(t, server.SetReadDeadline(time.Now().Add(time.Minute)))
	return client, server
}

func listen(t *testing.T) *hangup.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return hangup.New(l)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ends reads and returns how long it took to time out.
func ends(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	if n, err := c.Read(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want no more time", n, err)
	}
	return time.Since(began)
}

// TestSilent: whoever has sent nothing when the server hangs up, or is accepted afterwards, has the grace and no more.
func TestSilent(t *testing.T) {
	t.Parallel()
	l := listen(t)
	_, before := open(t, l)
	l.HangUp()
	_, afterwards := open(t, l)
	must(t, afterwards.SetDeadline(time.Time{}))
	for _, c := range []net.Conn{before, afterwards} {
		if took := ends(t, c); took > 10*time.Second {
			t.Errorf("hung up after %s", took)
		}
	}
}

// TestSpeaking: whoever has sent something, before or within the grace, has the server's own time.
func TestSpeaking(t *testing.T) {
	t.Parallel()
	l := listen(t)
	early, earlier := open(t, l)
	late, later := open(t, l)
	b := make([]byte, 1)
	say := func(from, to net.Conn) {
		t.Helper()
		_, err := from.Write([]byte("a"))
		must(t, err)
		_, err = io.ReadFull(to, b)
		must(t, err)
	}
	say(early, earlier)
	l.HangUp()
	say(late, later)
	time.Sleep(hangup.Grace + 100*time.Millisecond) // what would end has ended
	say(early, earlier)
	say(late, later)
	must(t, later.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	if took := ends(t, later); took > 10*time.Second {
		t.Errorf("the server's own deadline ended after %s", took)
	}
}
