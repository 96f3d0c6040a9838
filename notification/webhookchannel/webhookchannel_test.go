package webhookchannel_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flashsale/id"
	"flashsale/notification"
	"flashsale/notification/webhookchannel"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 123456000, time.UTC)

func clock() time.Time { return noon.Add(time.Hour) }

func message() notification.Message {
	return notification.Message{
		ID: id.Derive("event"), User: id.Derive("shopper"), To: "ann@example.org", Kind: notification.OrderConfirmed,
		Subject: "Your order is confirmed", Text: "2 × \"CHAIR\"\n<b>", State: notification.Pending, CreatedAt: noon,
	}
}

// serve starts a server and returns its URL.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// wantOutcome expects nil, an error to try again after, or one that is for good.
func wantOutcome(t *testing.T, what string, err error, ok, final bool) {
	t.Helper()
	if (err == nil) != ok || errors.Is(err, notification.ErrUndeliverable) != final {
		t.Errorf("%s: %v, want ok %v, final %v", what, err, ok, final)
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusNoContent)
	})
	const secret = "a shared secret"
	if err := webhookchannel.New(url+"/hook?shop=1", secret, clock).Send(t.Context(), message()); err != nil {
		t.Fatal(err)
	}
	const want = `{"created_at":"2026-11-27T12:00:00.123456Z","id":"%s","kind":"order_confirmed","subject":"Your order is confirmed",` +
		`"text":"2 × \"CHAIR\"\n\u003cb\u003e","to":"ann@example.org","user":"%s"}`
	if w := fmt.Sprintf(want, id.Derive("event"), id.Derive("shopper")); string(body) != w {
		t.Errorf("body %s\nwant %s", body, w)
	}
	if got.Method != http.MethodPost || got.URL.String() != "/hook?shop=1" || got.Header.Get("Content-Type") != "application/json" || got.Header.Get("Idempotency-Key") != id.Derive("event").String() {
		t.Errorf("%s %s %v", got.Method, got.URL, got.Header)
	}
	// As a receiver checks it, from the documentation alone.
	var at int64
	var sum string
	if _, err := fmt.Sscanf(got.Header.Get("X-Flashsale-Signature"), "t=%d,v1=%s", &at, &sum); err != nil {
		t.Fatalf("signature %q: %v", got.Header.Get("X-Flashsale-Signature"), err)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "%d.%s", at, body)
	if at != clock().Unix() || sum != hex.EncodeToString(mac.Sum(nil)) {
		t.Errorf("signature of %d: %s", at, sum)
	}
}

func TestWithoutASecretNothingIsSigned(t *testing.T) {
	t.Parallel()
	var signed []string
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) { signed = r.Header.Values("X-Flashsale-Signature") })
	if err := webhookchannel.New(url, "", clock).Send(t.Context(), message()); err != nil || len(signed) != 0 {
		t.Fatalf("%v, %v", err, signed)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for status, c := range map[int]struct{ ok, final bool }{
		200: {true, false}, 201: {true, false}, 202: {true, false}, 204: {true, false},
		301: {false, true}, 307: {false, true}, // not followed: the signed body goes to nobody else
		400: {false, true}, 401: {false, true}, 404: {false, true}, 410: {false, true}, 422: {false, true},
		408: {false, false}, 429: {false, false},
		500: {false, false}, 502: {false, false}, 503: {false, false}, 599: {false, false},
	} {
		times := 0
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			times++
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		})
		wantOutcome(t, fmt.Sprint(status), webhookchannel.New(url, "s", clock).Send(t.Context(), message()), c.ok, c.final)
		if times != 1 { // trying again is the worker's
			t.Errorf("%d: sent %d times", status, times)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	silent := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-done:
		}
	})
	t.Cleanup(func() { close(done) })
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	cut := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for what, url := range map[string]string{"a silent server": silent, "a closed port": away.URL, "a cut connection": cut} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		start := time.Now()
		err := webhookchannel.New(url, "s", clock).Send(ctx, message())
		cancel()
		wantOutcome(t, what, err, false, false)
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s took %s", what, took)
		}
	}
}

// TestTheStatusIsTheAnswer: a body that never ends neither holds the worker up nor has the message
// sent again.
func TestTheStatusIsTheAnswer(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	wantOutcome(t, "an endless body", webhookchannel.New(url, "s", clock).Send(ctx, message()), true, false)
	if ctx.Err() != nil {
		t.Error("the body was read to its end")
	}
}

func TestBadURL(t *testing.T) {
	t.Parallel()
	wantOutcome(t, "a bad URL", webhookchannel.New("http://[", "s", clock).Send(t.Context(), message()), false, true)
}
