package smtpchannel_test

import (
	"bytes"
	"context"
	"errors"
	"flashsale/id"
	"flashsale/notification"
	"flashsale/notification/smtpchannel"
	"io"
	"log"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func message() notification.Message {
	return notification.Message{
		ID: id.Derive("event"), User: id.Derive("shopper"), To: "ann@example.org", Kind: notification.OrderConfirmed,
		Subject: "Ihre Bestellung über 椅子", Text: "Thank you.\n.\n2 × CHAIR = 3 €\n" + strings.Repeat("long ", 300), CreatedAt: noon,
	}
}

// received is a message as the server took it.
type received struct {
	from string
	to   []string
	data []byte
}

// office is a mail server. Its fields are set before it is used: mailErr, rcptErr and dataErr are
// its answers, wait holds RCPT until it is closed, hangUp closes the connection once a message is taken.
type office struct {
	addr                      string
	mailErr, rcptErr, dataErr error
	wait                      chan struct{}
	hangUp                    bool

	mu     sync.Mutex
	taken  []received
	logins int
}

func (o *office) messages() []received {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.taken)
}

// serve starts the server.
func serve(t *testing.T, o *office) *office {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.addr = l.Addr().String()
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &session{office: o, conn: c}, nil }))
	s.Domain, s.AllowInsecureAuth, s.ErrorLog = "localhost", true, log.New(io.Discard, "", 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // until the listener is closed
	}()
	t.Cleanup(func() {
		_ = s.Close()
		_ = l.Close()
		<-done
	})
	return o
}

// session is one connection to the office.
type session struct {
	*office
	conn  *smtp.Conn
	now   received
	taken bool
}

func (*session) AuthMechanisms() []string { return []string{sasl.Plain, sasl.Login, "CRAM-MD5"} }

// Auth counts whoever begins to log in.
func (s *session) Auth(string) (sasl.Server, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins++
	return nil, smtp.ErrAuthFailed
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.now = received{from: from}
	return s.mailErr
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.wait != nil {
		<-s.wait
	}
	s.now.to = append(s.now.to, to)
	return s.rcptErr
}

func (s *session) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.dataErr != nil {
		return s.dataErr
	}
	s.now.data = data
	s.mu.Lock()
	defer s.mu.Unlock()
	s.office.taken, s.taken = append(s.office.taken, s.now), true
	return nil
}

// Reset comes after the answer to a message, and before the client's next command.
func (s *session) Reset() {
	if s.hangUp && s.taken {
		_ = s.conn.Conn().Close()
	}
}

func (*session) Logout() error { return nil }

func channel(t *testing.T, address string) *smtpchannel.Channel {
	t.Helper()
	c, err := smtpchannel.New("smtp://"+address, "Flashsale <shop@example.com>")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantOutcome expects nil, an error to try again after, or one that is for good.
func wantOutcome(t *testing.T, what string, err error, ok, final bool) {
	t.Helper()
	if (err == nil) != ok || errors.Is(err, notification.ErrUndeliverable) != final {
		t.Errorf("%s: %v, want ok %v, final %v", what, err, ok, final)
	}
}

func TestMail(t *testing.T) {
	t.Parallel()
	o := serve(t, &office{})
	m := message()
	if err := channel(t, o.addr).Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	got := o.messages()
	if len(got) != 1 || got[0].from != "shop@example.com" || !slices.Equal(got[0].to, []string{"ann@example.org"}) {
		t.Fatalf("envelope %+v", got)
	}
	parsed, err := mail.ReadMessage(bytes.NewReader(got[0].data))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := (&mime.WordDecoder{}).DecodeHeader(parsed.Header.Get("Subject"))
	if err != nil || subject != m.Subject {
		t.Errorf("subject %q, %v", subject, err)
	}
	for header, want := range map[string]string{
		"From": `"Flashsale" <shop@example.com>`, "To": "<ann@example.org>", "Message-Id": "<" + m.ID.String() + "@flashsale>",
		"Content-Type": "text/plain; charset=UTF-8", "Content-Transfer-Encoding": "quoted-printable",
	} {
		if v := parsed.Header.Get(header); v != want {
			t.Errorf("%s is %q, want %q", header, v, want)
		}
	}
	if at, err := parsed.Header.Date(); err != nil || !at.Equal(noon) {
		t.Errorf("date %s, %v", at, err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(parsed.Body))
	if text := strings.TrimSuffix(strings.ReplaceAll(string(body), "\r\n", "\n"), "\n"); err != nil || text != m.Text {
		t.Errorf("body %q, %v", text, err)
	}
}

func TestASecondCopyIsTheSameMessage(t *testing.T) {
	t.Parallel()
	o := serve(t, &office{})
	c := channel(t, o.addr)
	for range 2 {
		if err := c.Send(t.Context(), message()); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for _, m := range o.messages() {
		parsed, err := mail.ReadMessage(bytes.NewReader(m.data))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, parsed.Header.Get("Message-Id"))
	}
	if len(ids) != 2 || ids[0] != ids[1] {
		t.Fatalf("ids %q", ids)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	answer := func(code int) error { return &smtp.SMTPError{Code: code, Message: "because"} }
	for what, c := range map[string]struct {
		o     *office
		final bool
	}{
		"sender refused":           {&office{mailErr: answer(550)}, true},
		"sender, not now":          {&office{mailErr: answer(451)}, false},
		"no such mailbox":          {&office{rcptErr: answer(550)}, true},
		"mailbox busy, greylisted": {&office{rcptErr: answer(450)}, false},
		"content refused":          {&office{dataErr: answer(554)}, true},
		"disk full":                {&office{dataErr: answer(452)}, false},
	} {
		o := serve(t, c.o)
		wantOutcome(t, what, channel(t, o.addr).Send(t.Context(), message()), false, c.final)
		if got := o.messages(); len(got) != 0 {
			t.Errorf("%s: taken %+v", what, got)
		}
	}
}

func TestBadAddresses(t *testing.T) {
	t.Parallel()
	o := serve(t, &office{})
	for _, to := range []string{"", "ann", "ann@", "ann@example.org\r\nBcc: eve@example.org", "ann@example.org, eve@example.org", "<ann@example.org> RCPT TO:<eve@example.org>"} {
		m := message()
		m.To = to
		wantOutcome(t, to, channel(t, o.addr).Send(t.Context(), m), false, true)
	}
	c, err := smtpchannel.New("smtp://"+o.addr, "nobody")
	if err != nil {
		t.Fatal(err)
	}
	wantOutcome(t, "sender", c.Send(t.Context(), message()), false, true)
	if got := o.messages(); len(got) != 0 {
		t.Fatalf("taken %+v", got)
	}
}

func TestASubjectIsNoHeader(t *testing.T) {
	t.Parallel()
	o := serve(t, &office{})
	m := message()
	m.Subject = "Hello\r\nBcc: eve@example.org\r\n\r\nAnother body"
	if err := channel(t, o.addr).Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	got := o.messages()
	if len(got) != 1 || len(got[0].to) != 1 {
		t.Fatalf("envelope %+v", got)
	}
	parsed, err := mail.ReadMessage(bytes.NewReader(got[0].data))
	if err != nil || parsed.Header.Get("Bcc") != "" || parsed.Header.Get("Content-Type") == "" {
		t.Fatalf("headers %v, %v", parsed.Header, err)
	}
}

// TestNoAnswer: a server that is away, or that stops to answer at any point, is left when the
// time is over, and tried again.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	away, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = away.Close()
	hung := serve(t, &office{wait: make(chan struct{})})
	defer close(hung.wait)
	for what, addr := range map[string]string{"never greets": silent.Addr().String(), "stops in between": hung.addr, "closed": away.Addr().String()} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		start := time.Now()
		err := channel(t, addr).Send(ctx, message())
		cancel()
		wantOutcome(t, what, err, false, false)
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: took %s", what, took)
		}
	}
}

// TestTakenIsTaken: a server that hangs up after it has taken a message is not sent it again.
func TestTakenIsTaken(t *testing.T) {
	t.Parallel()
	o := serve(t, &office{hangUp: true})
	wantOutcome(t, "hung up", channel(t, o.addr).Send(t.Context(), message()), true, false)
	if got := o.messages(); len(got) != 1 {
		t.Fatalf("taken %d times", len(got))
	}
}

// TestNoPasswordInTheClear: a server that offers no TLS is not logged in to, in any way.
func TestNoPasswordInTheClear(t *testing.T) {
	t.Parallel()
	o := serve(t, &office{})
	wantOutcome(t, "no TLS", channel(t, "shop:secret@"+o.addr).Send(t.Context(), message()), false, false)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.logins != 0 || len(o.taken) != 0 {
		t.Fatalf("%d logins, taken %+v", o.logins, o.taken)
	}
}

func TestBadURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "localhost:25", "http://localhost", "smtp://", "smtp://:25", "smtp://localhost:x", "smtp://localhost:99999", "smtps://localhost"} {
		if _, err := smtpchannel.New(url, "shop@example.com"); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
}
