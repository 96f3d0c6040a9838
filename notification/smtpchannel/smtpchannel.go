// Package smtpchannel sends messages by mail.
package smtpchannel

import (
	"context"
	"errors"
	"flashsale/notification"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/wneessen/go-mail"
)

// Channel implements notification.Channel over SMTP.
type Channel struct {
	client *mail.Client
	from   string
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
	c, err := mail.NewClient(u.Hostname(), opts...)
	if err != nil {
		return nil, fmt.Errorf("mail: %w", err)
	}
	return &Channel{client: c, from: from}, nil
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
	if err := c.client.DialAndSendWithContext(ctx, msg); err != nil {
		var sending *mail.SendError
		if errors.As(err, &sending) && !sending.IsTemp() && sending.ErrorCode() >= 500 {
			return notification.Undeliverable(fmt.Errorf("mail: %w", err))
		}
		return fmt.Errorf("mail: %w", err)
	}
	return nil
}
