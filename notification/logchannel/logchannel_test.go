package logchannel_test

import (
	"bytes"
	"encoding/json"
	"flashsale/id"
	"flashsale/notification"
	"flashsale/notification/logchannel"
	"log/slog"
	"strings"
	"testing"
)

// TestLine: a line says what was told to whom, and nothing that a log must not have.
func TestLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := logchannel.New(slog.New(slog.NewJSONHandler(&out, nil)))
	m := notification.Message{
		ID: id.Derive("event"), User: id.Derive("shopper"), To: "ann@example.org", Kind: notification.OrderRefunded,
		Subject: "Your order\nis refunded", Text: "private text",
	}
	if err := c.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if strings.Count(out.String(), "\n") != 1 || strings.Contains(out.String(), m.To) || strings.Contains(out.String(), m.Text) {
		t.Fatalf("logged %s", &out)
	}
	var line struct{ Level, Msg, Kind, User, Subject string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line.Level != "INFO" || line.Msg != "notification" || line.Kind != m.Kind || line.User != m.User.String() || line.Subject != m.Subject {
		t.Fatalf("logged %+v", line)
	}
}
