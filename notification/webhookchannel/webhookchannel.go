// Package webhookchannel posts messages to a URL, signed.
package webhookchannel

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flashsale/notification"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Channel implements notification.Channel.
type Channel struct {
	url    string
	secret []byte
	client *http.Client
	clock  func() time.Time
}

// New returns a Channel to a URL. With a secret, X-Flashsale-Signature is "t=<unix seconds>,v1=<hex>"
// where the hex is the HMAC-SHA256 of "<unix seconds>.<body>".
func New(url, secret string, clock func() time.Time) *Channel {
	return &Channel{url: url, secret: []byte(secret), clock: clock, client: &http.Client{
		Timeout:       5 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Send implements notification.Channel.
func (c *Channel) Send(ctx context.Context, m notification.Message) error {
	body, err := json.Marshal(map[string]any{
		"id": m.ID, "kind": m.Kind, "user": m.User, "to": m.To, "subject": m.Subject, "text": m.Text, "created_at": m.CreatedAt,
	})
	if err != nil {
		return notification.Undeliverable(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return notification.Undeliverable(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", m.ID.String())
	if len(c.secret) > 0 {
		at := strconv.FormatInt(c.clock().Unix(), 10)
		mac := hmac.New(sha256.New, c.secret)
		_, _ = io.WriteString(mac, at+".") // a hash never fails
		_, _ = mac.Write(body)
		req.Header.Set("X-Flashsale-Signature", "t="+at+",v1="+hex.EncodeToString(mac.Sum(nil)))
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // lets the connection be used again
	switch {
	case resp.StatusCode < 300:
		return nil
	case resp.StatusCode < 500 && resp.StatusCode != http.StatusRequestTimeout && resp.StatusCode != http.StatusTooManyRequests:
		return notification.Undeliverable(fmt.Errorf("webhook: answered %d", resp.StatusCode))
	}
	return fmt.Errorf("webhook: answered %d", resp.StatusCode)
}
