package amqp

import (
	"encoding/json"
	"flashsale/transport"
	"log/slog"
	"slices"
	"testing"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
)

// FuzzHeaders: whatever a stranger has put into the headers of a message, its next step and its dead letter
// can be worked out, and the letter can be written as JSON.
func FuzzHeaders(f *testing.F) {
	f.Add(int64(0), int64(1), int64(1_795_000_000_000_000), "permanent", "never", "inventory.thing.happened", "delivery_limit", uint8(0))
	f.Add(int64(-5), int64(-1), int64(-1), "", "", "", "", uint8(1))
	f.Add(int64(1)<<62, int64(1)<<40, int64(1)<<62, "unheard of", "\xff\x00", "\xff", "expired", uint8(2))
	f.Add(int64(9_223_372_036_854_775_807), int64(-9_223_372_036_854_775_808), int64(9_223_372_036_854_775_807), "attempts", "é", "x", "delivery_limit", uint8(3))
	f.Fuzz(func(t *testing.T, attempts, replays, at int64, reason, text, route, death string, kind uint8) {
		tr := New(Options{Log: slog.New(slog.DiscardHandler)})
		typed := func(n int64) any {
			switch kind % 4 {
			case 0:
				return int32(n)
			case 1:
				return n
			case 2:
				return float64(n)
			}
			return text
		}
		d := rabbit.Delivery{Body: []byte(`{"id":7,"type":"` + text + `"}`), RoutingKey: route, Headers: rabbit.Table{
			headerAttempts: typed(attempts), headerReplays: typed(replays), headerTries: typed(attempts), headerFirstFailed: typed(at), headerDied: typed(at),
			headerReason: reason, headerError: text, headerRoute: route, "x-delivery-count": typed(replays),
			"x-death": []any{rabbit.Table{"reason": death, "time": time.UnixMicro(at), "routing-keys": []any{route}}},
		}}
		if kind%5 == 0 {
			d.Headers["x-death"] = []any{text}
		}
		n := tr.attempts(d)
		if n < 1 || !slices.Contains(tr.opts.Delays, tr.delay(n)) {
			t.Errorf("attempt %d waits %s", n, tr.delay(n))
		}
		if pause, waits := tr.pause(d, transport.ErrUnavailable); waits && !slices.Contains(tr.opts.Pauses, pause) {
			t.Errorf("parked for %s", pause)
		}
		l := tr.letter(transport.Inventory, time.Minute, d)
		if !slices.Contains(transport.Reasons(), l.Reason) || l.Attempts < 0 || l.Replays < 0 || l.ID.IsZero() {
			t.Errorf("letter %+v", l)
		}
		if _, err := json.Marshal(l); err != nil {
			t.Errorf("letter %+v: %v", l, err)
		}
		back, err := transport.ParseCursor(l.Cursor())
		if err != nil || back.Compare(l) != 0 {
			t.Errorf("the place %q of %+v is %+v, %v", l.Cursor(), l, back, err)
		}
	})
}
