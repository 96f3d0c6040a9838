// Package smtpchannel sends messages by mail.
package smtpchannel

import (
	"context"
	"errors"
	"flashsale/notification"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/wneessen/go-mail"
)

// Channel implements notification.Channel over SMTP.
type Channel struct {
	host string
	opts []mail.Option
	from string
}

// New returns a Channel for smtp://user:password@host:port. TLS is used when the server offers it;
// with user and password it is required.
func New(address, from string) (*Channel, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "smtp" || u.Hostname() == "" {
		return nil, errors.New("mail: the URL is not valid; set smtp://user:password@host:port")
	}
	port := 587
	if u.Port() != "" {
		if port, err = strconv.Atoi(u.Port()); err != nil {
			return nil, fmt.Errorf("mail: port: %w", err)
		}
	}
	opts := []mail.Option{mail.WithPort(port), mail.WithTimeout(5 * time.Second), mail.WithTLSPolicy(mail.TLSOpportunistic)}
	if name := u.User.Username(); name != "" {
		pass, _ := u.User.Password()
		opts = append(opts, mail.WithTLSPolicy(mail.TLSMandatory), mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(name), mail.WithPassword(pass))
	}
	if _, err := mail.NewClient(u.Hostname(), opts...); err != nil {
		return nil, fmt.Errorf("mail: %w", err)
	}
	return &Channel{host: u.Hostname(), opts: opts, from: from}, nil
}

// Send implements notification.Channel. The Message-ID is the event's, so that a second copy can be
// told from a new message.
func (c *Channel) Send(ctx context.Context, m notification.Message) error {
	msg := mail.NewMsg()
	if err := msg.From(c.from); err != nil {
		return notification.Undeliverable(fmt.Errorf("mail: sender: %w", err))
	}
	if err := msg.To(m.To); err != nil {
		return notification.Undeliverable(fmt.Errorf("mail: recipient: %w", err))
	}
	msg.SetMessageIDWithValue(m.ID.String() + "@flashsale")
	msg.SetDateWithValue(m.CreatedAt)
	msg.Subject(m.Subject)
	msg.SetBodyString(mail.TypeTextPlain, m.Text)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts := append(slices.Clone(c.opts), mail.WithDialContextFunc(dialUntil(ctx)))
	client, err := mail.NewClient(c.host, opts...)
	if err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	// Once the server has taken the message, a failed goodbye must not have it sent again.
	if err := client.DialAndSendWithContext(ctx, msg); err != nil && !msg.IsDelivered() {
		var sending *mail.SendError
		if errors.As(err, &sending) && !sending.IsTemp() && sending.ErrorCode() >= 500 {
			return notification.Undeliverable(fmt.Errorf("mail: %w", err))
		}
		return fmt.Errorf("mail: %w", err)
	}
	return nil
}

// dialUntil dials connections that are closed when ctx ends: go-mail heeds a context only while it
// dials, and after that gives every step its own five seconds.
func dialUntil(ctx context.Context) mail.DialContextFunc {
	return func(dialing context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(dialing, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = conn.Close() })
		}
		return conn, err
	}
}
