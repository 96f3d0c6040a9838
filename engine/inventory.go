package engine

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/catalog"
	"flashsale/groupcommit"
	"flashsale/inventory"
	"flashsale/payment"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"time"
)

// Inventory is the inventory service's part of the flow: it commits claims to the ledger, moves
// reservations along, and keeps the gate told.
type Inventory struct {
	ledger    inventory.Ledger
	sales     inventory.Sales
	admission *Admission
	keeper    *Keeper
	commits   *groupcommit.Group[inventory.Claim, inventory.Decision]
	moves     *groupcommit.Group[inventory.Move, inventory.Moved]
	deciding  work
	clock     func() time.Time
	shards    int
	log       *slog.Logger
}

const (
	maxGroup = 512    // claims or moves of one transaction
	maxQueue = 20_000 // waiting for a transaction; beyond it the service sheds
)

// NewInventory returns the service's part. shards is how many buckets a sale item is split over.
// Close it when done.
func NewInventory(ledger inventory.Ledger, sales inventory.Sales, admission *Admission, keeper *Keeper, shards int, clock func() time.Time, log *slog.Logger) *Inventory {
	return &Inventory{
		ledger: ledger, sales: sales, admission: admission, keeper: keeper, shards: shards, clock: clock, log: log,
		commits: groupcommit.New(maxGroup, maxQueue, 1, ledger.Commit),
		moves:   groupcommit.New(maxGroup, maxQueue, 1, ledger.Move),
	}
}

// WatchGroups has a function told of each group of commits and of moves; watch makes it for a name. Call it before
// anything is handled.
func (s *Inventory) WatchGroups(watch func(name string) func(size int, waited time.Duration)) {
	s.commits.Watch(watch("ledger_commits"))
	s.moves.Watch(watch("ledger_moves"))
}

// Close finishes the groups under way.
func (s *Inventory) Close() {
	s.commits.Close()
	s.moves.Close()
}

// Handle is the transport.Handler of the service.
func (s *Inventory) Handle(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
	switch e.Type {
	case inventory.EventRequested:
		return s.decide(ctx, e)
	case inventory.EventCancelRequest:
		return s.cancel(ctx, e)
	case payment.EventRequested:
		return s.movePayment(ctx, e, reservation.MovePay)
	case payment.EventCaptured:
		return s.movePayment(ctx, e, reservation.MoveCapture)
	case payment.EventDeclined:
		return s.movePayment(ctx, e, reservation.MoveDecline)
	case payment.EventRefunded:
		return s.movePayment(ctx, e, reservation.MoveRefund)
	case catalog.EventScheduled, catalog.EventStatus, catalog.EventStockAdded:
		return nil, s.sale(ctx, e)
	}
	return nil, transport.Permanent(fmt.Errorf("engine: inventory does not handle %q", e.Type))
}

const retakes = 3

// decide commits a claim. A take that was fenced or given back meanwhile is drawn again under the
// current epoch before the request is refused; a refusal that was promised as a decision is
// recorded, so that the shopper sees it.
func (s *Inventory) decide(ctx context.Context, e transport.Envelope) (_ []transport.Envelope, err error) {
	s.deciding.begin()
	defer func() { s.deciding.end(err == nil) }()
	d, err := transport.Decode[inventory.ClaimData](e)
	if err != nil {
		return nil, err
	}
	claim := d.Claim(e.TraceParent)
	for attempt := 0; ; attempt++ {
		decision, err := s.commits.Do(ctx, claim)
		if err != nil {
			return nil, shed(err) // the takes stay pending: a repetition, or the reaper, finds out
		}
		s.keeper.Conclude(claim.Legs, decision.Outcomes)
		if decision.Err == nil {
			return []transport.Envelope{heldAnswer(decision)}, nil
		}
		refusal := decision.Err
		if retakable(refusal) {
			if errors.Is(refusal, inventory.ErrNoUnits) {
				s.log.ErrorContext(ctx, "the gate promised units that the ledger does not have", "sale", d.Sale, "sku", d.SKU, "subject", e.Subject)
			}
			refusal = reservation.ErrOverloaded
			if attempt < retakes {
				var again inventory.Claim
				if again, _, refusal = s.admission.Admit(ctx, claim.Request, e.TraceParent, d.Promised); refusal == nil {
					claim = again
					continue
				}
				row, undecided, err := doubt(ctx, s.ledger, claim.Request, refusal)
				switch {
				case err != nil:
					return nil, shed(err)
				case row != nil: // decided by another delivery: the ledger says how
					continue
				case (undecided || shaded(refusal)) && !d.Promised: // whoever waits must not hear that nothing was done: an earlier request may win
					return nil, fmt.Errorf("engine: reservation %s: %w", claim.Request.ID(), reservation.ErrInFlight)
				case undecided:
					refusal = reservation.ErrOverloaded
				}
			}
		}
		if errors.Is(refusal, reservation.ErrOverloaded) || errors.Is(refusal, reservation.ErrUncertain) {
			return nil, fmt.Errorf("%w: %w", transport.ErrOverloaded, refusal) // not a decision: try again
		}
		return s.refuse(ctx, d, claim.Request, refusal, e)
	}
}

func retakable(err error) bool {
	return errors.Is(err, inventory.ErrFenced) || errors.Is(err, inventory.ErrTakeAborted) || errors.Is(err, inventory.ErrNoUnits)
}

// heldAnswer is the event of the decision; a replay says so to its sender.
func heldAnswer(d inventory.Decision) transport.Envelope {
	e := d.Event
	if d.Replayed {
		data := inventory.Data(d.Reservation)
		data.Replayed = true
		e = transport.New(inventory.EventHeld, transport.Inventory, d.Reservation.ID, d.Reservation.CreatedAt, e.TraceParent, data)
	}
	return e
}

func (s *Inventory) refuse(ctx context.Context, d inventory.ClaimData, req reservation.Request, refusal error, e transport.Envelope) ([]transport.Envelope, error) {
	reason := reservation.Reason(refusal)
	row := reservation.Reservation{
		ID: req.ID(), User: req.User, Sale: req.Sale, SKU: req.SKU, Quantity: req.Quantity, Cart: req.Cart,
		State: reservation.Refused, Reason: reason,
	}
	// Another request under the same key has the row: the reuse is told to the sender only.
	if d.Promised && !errors.Is(refusal, reservation.ErrKeyReused) {
		rows, err := s.ledger.Refuse(ctx, []inventory.Refusal{{Request: req, Reason: reason, TraceParent: e.TraceParent}})
		if err != nil {
			return nil, err
		}
		row = rows[0]
		if row.State != reservation.Refused { // an earlier delivery was admitted
			data := inventory.Data(row)
			data.Replayed = true
			return []transport.Envelope{transport.New(inventory.EventHeld, transport.Inventory, row.ID, row.CreatedAt, e.TraceParent, data)}, nil
		}
	}
	return []transport.Envelope{inventory.RefusedEvent(row, s.clock(), e.TraceParent)}, nil
}

func (s *Inventory) cancel(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
	d, err := transport.Decode[inventory.CancelData](e)
	if err != nil {
		return nil, err
	}
	moved, err := s.move(ctx, inventory.Move{
		Kind: reservation.MoveCancel, Reservation: d.Reservation, User: d.User, TraceParent: e.TraceParent,
	})
	if err != nil {
		return nil, err
	}
	if moved.Err != nil {
		data := inventory.Data(moved.Reservation)
		data.Reservation, data.Reason = d.Reservation, reservation.Reason(moved.Err)
		return []transport.Envelope{transport.New(inventory.EventCancelRefused, transport.Inventory, d.Reservation, s.clock(), e.TraceParent, data)}, nil
	}
	return event(moved), nil
}

func (s *Inventory) movePayment(ctx context.Context, e transport.Envelope, kind reservation.MoveKind) ([]transport.Envelope, error) {
	d, err := transport.Decode[payment.Data](e)
	if err != nil {
		return nil, err
	}
	moved, err := s.move(ctx, inventory.Move{
		Kind: kind, Reservation: d.Order, User: d.User, Payment: d.Payment, TraceParent: e.TraceParent,
	})
	if err != nil {
		return nil, err
	}
	if errors.Is(moved.Err, reservation.ErrNotFound) {
		// Orders exist only for reservations: a ledger that has not got it yet will have it.
		return nil, fmt.Errorf("engine: %s for reservation %s: %w", e.Type, d.Order, moved.Err)
	}
	if kind == reservation.MoveRefund && moved.Err != nil && moved.Reservation.State == reservation.Paying {
		// The refund overtook the capture: refused now, the units would be sold for no money.
		return nil, fmt.Errorf("engine: %s before its capture for reservation %s: %w", e.Type, d.Order, moved.Err)
	}
	return event(moved), nil
}

func event(m inventory.Moved) []transport.Envelope {
	if m.Event.Type == "" {
		return nil
	}
	return []transport.Envelope{m.Event}
}

// move makes one move in the next group, and has the gate told of returned units at once.
func (s *Inventory) move(ctx context.Context, m inventory.Move) (inventory.Moved, error) {
	moved, err := s.moves.Do(ctx, m)
	if err != nil {
		return moved, shed(err)
	}
	s.keeper.Nudge(moved.Credited)
	return moved, nil
}

// shed maps a full queue to the transport's word for it; nothing was done then.
func shed(err error) error {
	if errors.Is(err, groupcommit.ErrFull) || errors.Is(err, groupcommit.ErrStopped) {
		return fmt.Errorf("%w: %w", transport.ErrOverloaded, err)
	}
	return err
}

func (s *Inventory) sale(ctx context.Context, e transport.Envelope) error {
	switch e.Type {
	case catalog.EventStockAdded:
		d, err := transport.Decode[catalog.StockData](e)
		if err != nil {
			return err
		}
		credited, err := s.sales.AddStock(ctx, inventory.Addition{
			ID: d.Addition, Item: inventory.ItemID{Sale: d.Sale, SKU: d.SKU}, Qty: d.Quantity,
		})
		s.keeper.Nudge(credited)
		if err != nil || len(credited) == 0 {
			return err
		}
		return s.keeper.Open(ctx, []inventory.ItemID{{Sale: d.Sale, SKU: d.SKU}})
	case catalog.EventStatus:
		d, err := transport.Decode[catalog.SaleData](e)
		if err != nil {
			return err
		}
		return s.sales.SetStatus(ctx, saleOf(d))
	default:
		d, err := transport.Decode[catalog.SaleData](e)
		if err != nil {
			return err
		}
		sale := saleOf(d)
		if err := s.sales.Provision(ctx, inventory.Provision{Sale: sale, Shards: s.shards}); err != nil {
			return err
		}
		items := make([]inventory.ItemID, len(sale.Items))
		for i, item := range sale.Items {
			items[i] = inventory.ItemID{Sale: sale.ID, SKU: item.SKU}
		}
		return s.keeper.Open(ctx, items) // before the sale is said to be there
	}
}

func saleOf(d catalog.SaleData) inventory.Sale {
	s := inventory.Sale{
		ID: d.Sale, Status: inventory.SaleStatus(d.Status), OpensAt: d.OpensAt, EndsAt: d.EndsAt, Limit: d.Limit,
		HoldFor: time.Duration(d.HoldMS) * time.Millisecond, Revision: d.Revision,
	}
	for _, i := range d.Items {
		s.Items = append(s.Items, inventory.Item{SKU: i.SKU, UnitPrice: i.UnitPrice, Total: i.Stock})
	}
	return s
}

// Expire moves holds that are over, in bounded groups, until none is due, and returns what follows.
func (s *Inventory) Expire(ctx context.Context) ([]transport.Envelope, error) {
	due, err := s.ledger.Due(ctx, maxGroup)
	if err != nil || len(due) == 0 {
		return nil, err
	}
	moves := make([]inventory.Move, len(due))
	for i, r := range due {
		moves[i] = inventory.Move{Kind: reservation.MoveExpire, Reservation: r}
	}
	answers, err := s.ledger.Move(ctx, moves)
	if err != nil {
		return nil, err
	}
	var events []transport.Envelope
	for _, m := range answers {
		s.keeper.Nudge(m.Credited)
		events = append(events, event(m)...)
	}
	return events, nil
}

// Expirer releases holds whose time is over, until ctx ends.
func (s *Inventory) Expirer(ctx context.Context, flow *Flow, interval time.Duration) error {
	return every(ctx, s.log, interval, "expirer", func(ctx context.Context) error {
		for {
			events, err := s.Expire(ctx)
			if err != nil || len(events) == 0 {
				return err
			}
			flow.Follow(ctx, transport.Inventory, events)
		}
	})
}

// The questions that inventory answers.
const (
	askReservation = "inventory.reservation"
	askBound       = "inventory.bound"
	askSale        = "inventory.sale"
	askDeciding    = "inventory.pressure"
)

// Answer is the transport.Answerer of the service.
func (s *Inventory) Answer(ctx context.Context, q transport.Question) (json.RawMessage, error) {
	switch q.Name {
	case askReservation:
		return answer(ctx, q, func(ctx context.Context, a byID) (inventory.ReservationData, error) {
			r, err := s.ledger.Find(ctx, a.ID)
			if errors.Is(err, reservation.ErrNotFound) {
				return inventory.ReservationData{}, nil // the zero reservation says "none"
			}
			d := inventory.Data(r)
			d.Fingerprint = r.Fingerprint[:]
			return d, err
		})
	case askDeciding:
		return json.Marshal(s.deciding.pressure(s.clock()))
	case askBound:
		return answer(ctx, q, func(ctx context.Context, a byShopper) (int, error) {
			return s.ledger.Bound(ctx, inventory.ItemID{Sale: a.Sale, SKU: a.SKU}, a.User)
		})
	case askSale:
		return answer(ctx, q, func(ctx context.Context, a byID) (inventory.Sale, error) {
			sale, err := s.sales.Sale(ctx, a.ID)
			if errors.Is(err, inventory.ErrUnknownSale) {
				return inventory.Sale{}, nil
			}
			return sale, err
		})
	}
	return nil, transport.Permanent(fmt.Errorf("engine: inventory has no answer to %q", q.Name))
}
