package engine

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Behind the events come the sweeps: each follows its service's database, or the ledger's journal, at
// some distance, and looks whether what should have followed is there. What the queues have lost is
// made good. How far a sweep has come is in its service's database, and one process at a time has it.
const (
	sweepPage  = 500
	sweepPages = 64 // of one pass
	// sweepHold bounds a page; whoever dies with a sweep, or whose answer is lost, loses it after that.
	sweepHold = 20 * time.Second
	lastWord  = 5 * time.Second // for writing down how far a page has come
)

// Sweep is what the passes behind the events need.
type Sweep struct {
	Places transport.Places  // of the service's database
	From   inventory.History // of the ledger
	Flow   *Flow
	Age    time.Duration // how far behind: events need seconds, and the journal's numbers come before its commits
	Log    *slog.Logger
}

// Run makes a pass several times within Age, until ctx ends.
func (v Sweep) Run(ctx context.Context, name string, pass func(context.Context, Sweep) error) error {
	return every(ctx, v.Log, v.Age/4, name, func(ctx context.Context) error { return pass(ctx, v) })
}

// follow goes on page by page. page deals with what comes after a place and returns the next
// place; it returns the same place when there is nothing more for now.
func (v Sweep) follow(ctx context.Context, name string, page func(ctx context.Context, after int64) (int64, error)) error {
	for range sweepPages {
		upto, mine, err := v.Places.Place(ctx, name, sweepHold)
		if err != nil || !mine {
			return err
		}
		bound, cancel := context.WithTimeout(ctx, sweepHold)
		next, failed := page(bound, upto)
		cancel()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
		err = v.Places.SetPlace(last, name, next)
		cancel()
		if err != nil {
			return err
		}
		if failed != nil || next == upto {
			return failed
		}
	}
	return nil
}

// steps follows the ledger's journal: a page has what each reservation in it has come to.
func (v Sweep) steps(ctx context.Context, name string, page func(context.Context, map[id.ID][]order.State) error) error {
	return v.follow(ctx, name, func(ctx context.Context, after int64) (int64, error) {
		read, err := v.From.Steps(ctx, after, v.Age, sweepPage)
		if err != nil || len(read) == 0 {
			return after, err
		}
		reached := map[id.ID][]order.State{}
		for _, s := range read {
			if state := orderState(s.State); s.State != "" && !slices.Contains(reached[s.Reservation], state) {
				reached[s.Reservation] = append(reached[s.Reservation], state)
			}
		}
		if err := page(ctx, reached); err != nil {
			return after, err
		}
		return read[len(read)-1].N, nil
	})
}

// SweepOnce opens, confirms, cancels and refunds the orders whose event has not come although the
// ledger's step is older than age.
func (s *Orders) SweepOnce(ctx context.Context, v Sweep) error {
	return v.steps(ctx, "orders", func(ctx context.Context, reached map[id.ID][]order.State) error {
		ids := make([]id.ID, 0, len(reached))
		for o := range reached {
			ids = append(ids, o)
		}
		states, err := s.store.States(ctx, ids)
		if err != nil {
			return err
		}
		behind := slices.DeleteFunc(ids, func(o id.ID) bool {
			now, there := states[o]
			return there && !slices.ContainsFunc(reached[o], func(to order.State) bool { return to.Rank() > now.Rank() })
		})
		if len(behind) == 0 {
			return nil
		}
		rows, err := v.From.Rows(ctx, behind)
		if err != nil {
			return err
		}
		for _, r := range rows {
			changed, err := s.apply(ctx, inventory.Data(r), orderState(r.State), "")
			if err != nil {
				return err
			}
			if changed.Event.Type != "" {
				v.Flow.Follow(ctx, transport.Order, []transport.Envelope{changed.Event})
			}
		}
		v.Log.WarnContext(ctx, "orders whose event did not come were brought up to the ledger", "orders", len(rows))
		return nil
	})
}

// MessageReader knows which events have no message yet: the notification service's store, or asked.
type MessageReader interface {
	Missing(ctx context.Context, events []id.ID) ([]id.ID, error)
}

// RemindOnce says the order events again that the notification service has not had although the
// ledger's step is older than age.
func (s *Orders) RemindOnce(ctx context.Context, v Sweep, messages MessageReader) error {
	return v.steps(ctx, "messages", func(ctx context.Context, reached map[id.ID][]order.State) error {
		said := map[id.ID]order.Order{}
		for which, states := range reached {
			for _, state := range states {
				o := order.Order{ID: which, State: state}
				if e, ok := order.Follow(o, ""); ok {
					said[e.ID] = o
				}
			}
		}
		ids := make([]id.ID, 0, len(said))
		for e := range said {
			ids = append(ids, e)
		}
		if len(ids) == 0 {
			return nil
		}
		missing, err := messages.Missing(ctx, ids)
		if err != nil {
			return err
		}
		for _, e := range missing {
			o, err := s.store.Find(ctx, said[e].ID)
			if errors.Is(err, order.ErrNotFound) || err == nil && o.State.Rank() < said[e].State.Rank() {
				continue // the sweep of orders brings it there, and what follows is in the outbox then
			}
			if err != nil {
				return err
			}
			o.State = said[e].State
			again, _ := order.Follow(o, "")
			if _, err := v.Flow.Dispatch(ctx, again); err != nil {
				return err
			}
		}
		if len(missing) > 0 {
			v.Log.WarnContext(ctx, "order events that had no message were said again", "events", len(missing))
		}
		return nil
	})
}

// sweepPatience is how long the sweep of payments waits for the ledger to have heard of one.
const sweepPatience = 15 * time.Minute

// SweepOnce says again what payments have come to, for longer than age, that the ledger has not heard
// of. It goes no further until the ledger has, or until it has been said for sweepPatience.
func (s *Payments) SweepOnce(ctx context.Context, v Sweep) error {
	return v.follow(ctx, "payments", func(ctx context.Context, after int64) (int64, error) {
		ps, err := s.store.Decided(ctx, time.UnixMicro(after), v.Age, sweepPage)
		if err != nil || len(ps) == 0 {
			return after, err
		}
		orders := make([]id.ID, len(ps))
		for i, p := range ps {
			orders[i] = p.Order
		}
		rows, err := v.From.Rows(ctx, orders)
		if err != nil {
			return after, err
		}
		known := make(map[id.ID]reservation.Reservation, len(rows))
		for _, r := range rows {
			known[r.ID] = r
		}
		next, again := ps[len(ps)-1].UpdatedAt.UnixMicro(), 0
		if len(ps) == sweepPage { // others of the same moment may be on the next page
			next--
		}
		for _, p := range ps {
			if heard(p, known[p.Order]) {
				continue
			}
			if s.clock().Sub(p.UpdatedAt) > v.Age+sweepPatience {
				v.Log.ErrorContext(ctx, "the ledger never hears of a payment; look at the dead letters of inventory", "payment", p.ID, "order", p.Order, "state", p.State)
				continue
			}
			next = min(next, p.UpdatedAt.UnixMicro()-1)
			if p.State == payment.Refunded && known[p.Order].State == reservation.Paying {
				p.State = payment.Captured // that it was captured is what the ledger has to hear first
			}
			e, _ := payment.Follow(p)
			if _, err := v.Flow.Dispatch(ctx, e); err != nil {
				return max(after, next), err
			}
			again++
		}
		if again > 0 {
			v.Log.WarnContext(ctx, "payments that the ledger has not heard of were said again", "payments", again)
		}
		return max(after, next), nil
	})
}

// heard reports whether the ledger's row shows that the payment's outcome has arrived.
func heard(p payment.Payment, r reservation.Reservation) bool {
	mine := r.Payment == p.ID
	switch p.State {
	case payment.Captured:
		return mine && (r.State == reservation.Paid || r.State == reservation.Refunded)
	case payment.Declined:
		return !mine || r.State != reservation.Paying
	case payment.Refunded:
		return !mine || r.State != reservation.Paying && r.State != reservation.Paid
	default:
		return true
	}
}

// The questions that sweeps ask.
const (
	askSteps   = "inventory.steps"
	askRows    = "inventory.rows"
	askMissing = "notification.missing"
)

// after is the argument of a question about what comes after a place.
type after struct {
	After int64 `json:"after"`
	AgeMS int64 `json:"age_ms"`
	Limit int   `json:"limit"`
}

// Steps implements inventory.History.
func (r RemoteInventory) Steps(ctx context.Context, n int64, age time.Duration, limit int) ([]inventory.Step, error) {
	return ask[[]inventory.Step](ctx, r.To, transport.Inventory, askSteps, after{n, age.Milliseconds(), limit})
}

// Rows implements inventory.History. The rows are without their fingerprints.
func (r RemoteInventory) Rows(ctx context.Context, ids []id.ID) ([]reservation.Reservation, error) {
	data, err := ask[[]inventory.ReservationData](ctx, r.To, transport.Inventory, askRows, ids)
	rows := make([]reservation.Reservation, len(data))
	for i, d := range data {
		rows[i] = d.Row()
	}
	return rows, err
}

// Followed answers the questions of sweeps to the inventory service, and has next answer the others.
func Followed(from inventory.History, next transport.Answerer) transport.Answerer {
	return func(ctx context.Context, q transport.Question) (json.RawMessage, error) {
		switch q.Name {
		case askSteps:
			return answer(ctx, q, func(ctx context.Context, a after) ([]inventory.Step, error) {
				return from.Steps(ctx, a.After, time.Duration(a.AgeMS)*time.Millisecond, min(a.Limit, sweepPage))
			})
		case askRows:
			return answer(ctx, q, func(ctx context.Context, ids []id.ID) ([]inventory.ReservationData, error) {
				rows, err := from.Rows(ctx, ids[:min(len(ids), sweepPage)])
				data := make([]inventory.ReservationData, len(rows))
				for i, r := range rows {
					data[i] = inventory.Data(r)
				}
				return data, err
			})
		}
		return next(ctx, q)
	}
}

// Answer is the transport.Answerer of the notification service.
func (s *Notifications) Answer(ctx context.Context, q transport.Question) (json.RawMessage, error) {
	if q.Name != askMissing {
		return nil, transport.Permanent(fmt.Errorf("engine: notification has no answer to %q", q.Name))
	}
	return answer(ctx, q, func(ctx context.Context, events []id.ID) ([]id.ID, error) {
		return s.store.Missing(ctx, events[:min(len(events), sweepPage*2)])
	})
}

// RemoteMessages asks the notification service.
type RemoteMessages struct{ To transport.Asker }

// Missing implements MessageReader.
func (r RemoteMessages) Missing(ctx context.Context, events []id.ID) ([]id.ID, error) {
	return ask[[]id.ID](ctx, r.To, transport.Notification, askMissing, events)
}
