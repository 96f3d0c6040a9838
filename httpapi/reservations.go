package httpapi

import (
	"context"
	"flashsale/account"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/money"
	"flashsale/reservation"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"
)

// Reservations are the use cases behind the reservation routes.
type Reservations interface {
	Reserve(ctx context.Context, req reservation.Request, trace string) (engine.Outcome, error)
	// Come says whether one who comes to reserve is turned away, before Reserve.
	Come(lot int) engine.Turned
	Cancel(ctx context.Context, user, reservation id.ID, trace string) (engine.Outcome, error)
	Status(ctx context.Context, user, reservation id.ID) (reservation.Reservation, error)
	// Await is Status as soon as it is decided, or when ctx ends.
	Await(ctx context.Context, user, reservation id.ID) (reservation.Reservation, error)
}

// MountReservations adds the routes of the reservation service.
func (a *API) MountReservations(s Reservations) {
	shopper := a.auth(account.Shopper)
	a.app.Post("/api/v1/reservations", a.door(s), shopper, func(c *fiber.Ctx) error { return a.reserve(c, s) })
	a.app.Get("/api/v1/reservations/:id", shopper, func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		r, err := s.Status(c.UserContext(), user(c), v)
		if err != nil {
			return err
		}
		if r.State == reservation.Requested {
			c.Set("Retry-After", "1")
		}
		return c.JSON(viewReservation(r))
	})
	a.app.Get("/api/v1/reservations/:id/events", shopper, func(c *fiber.Ctx) error { return a.reservationEvents(c, s) })
	a.app.Delete("/api/v1/reservations/:id", shopper, func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		out, err := s.Cancel(c.UserContext(), user(c), v, trace(c))
		if err != nil {
			return err
		}
		if !out.Decided {
			c.Location("/api/v1/reservations/" + v.String())
			return c.Status(fiber.StatusAccepted).JSON(viewReservation(out.Reservation))
		}
		return c.JSON(viewReservation(out.Reservation))
	})
}

// door turns away those whom there is no room for, mostly before they are asked who they are: what a crowd is told is to
// cost as little as it can. It is the same for all of them, so that nginx may tell it to others with the same lot.
func (a *API) door(s Reservations) fiber.Handler {
	return func(c *fiber.Ctx) error {
		lot := -1
		if v, err := strconv.ParseUint(c.Get("X-Crowd-Lot"), 16, 8); err == nil {
			lot = int(v) * engine.Lots / 256
		}
		turned := s.Come(lot)
		if !turned.Away {
			return c.Next()
		}
		return crowded{turned.Turns, turned.Again}
	}
}

type reserveBody struct {
	Sale      id.ID        `json:"sale_id"`
	SKU       string       `json:"sku"`
	Quantity  int          `json:"quantity"`
	Cart      id.ID        `json:"cart_id,omitzero"`
	UnitPrice *money.Money `json:"unit_price,omitzero"`
}

// reserve is the hot route: key, body, and then Reservations.Reserve decides.
func (a *API) reserve(c *fiber.Ctx, s Reservations) error {
	key, err := idempotencyKey(c)
	if err != nil {
		return err
	}
	body, err := decode[reserveBody](c)
	if err != nil {
		return err
	}
	if body.Sale.IsZero() || body.SKU == "" {
		return badBody{"The body needs sale_id and sku."}
	}
	var seen money.Money
	if body.UnitPrice != nil {
		seen = *body.UnitPrice
	}
	leave, err := a.inFlight.enter(user(c), "reserve", key)
	if err != nil {
		return err
	}
	defer leave()
	out, err := s.Reserve(c.UserContext(), reservation.Request{
		User: user(c), Key: key, Sale: body.Sale, SKU: body.SKU, Quantity: body.Quantity, Cart: body.Cart, Seen: seen,
	}, trace(c))
	if err != nil {
		return err
	}
	c.Location("/api/v1/reservations/" + out.Reservation.ID.String())
	if out.Replayed {
		c.Set("Idempotency-Replayed", "true")
	}
	if patience := preferWait(c); !out.Decided && patience > 0 {
		c.Set("Preference-Applied", "wait="+strconv.Itoa(int(patience/time.Second)))
		ctx, cancel := context.WithTimeout(c.UserContext(), patience)
		defer cancel()
		if out, err = a.awaitDecision(ctx, s, out); err != nil {
			return err
		}
	}
	if !out.Decided {
		c.Set("Retry-After", "1")
		return c.Status(fiber.StatusAccepted).JSON(viewReservation(out.Reservation))
	}
	status := fiber.StatusCreated
	if out.Reservation.State.Terminal() { // it was made before, and is over
		if out.Reservation.State == reservation.Expired {
			return reservation.ErrExpired
		}
		status = fiber.StatusOK
	}
	return c.Status(status).JSON(viewReservation(out.Reservation))
}

type reservationView struct {
	ID        id.ID             `json:"id"`
	Order     id.ID             `json:"order_id"`
	State     reservation.State `json:"state"`
	Reason    string            `json:"reason,omitempty"`
	Sale      *id.ID            `json:"sale_id,omitempty"`
	SKU       string            `json:"sku,omitempty"`
	Quantity  int               `json:"quantity,omitempty"`
	UnitPrice *money.Money      `json:"unit_price,omitempty"`
	Total     *money.Money      `json:"total,omitempty"`
	Cart      *id.ID            `json:"cart_id,omitempty"`
	CreatedAt *time.Time        `json:"created_at,omitempty"`
	ExpiresAt *time.Time        `json:"expires_at,omitempty"`
	Links     reservationLinks  `json:"links"`
}

type reservationLinks struct {
	Self  string `json:"self"`
	Order string `json:"order,omitempty"`
	Pay   string `json:"pay,omitempty"`
}

func viewReservation(r reservation.Reservation) reservationView {
	v := reservationView{
		ID: r.ID, Order: r.ID, State: r.State, Reason: r.Reason, SKU: r.SKU, Quantity: r.Quantity,
		Links: reservationLinks{Self: "/api/v1/reservations/" + r.ID.String()},
	}
	if !r.Sale.IsZero() {
		v.Sale = &r.Sale
	}
	if !r.Cart.IsZero() {
		v.Cart = &r.Cart
	}
	if r.State == reservation.Requested || r.State == reservation.Refused {
		return v
	}
	v.UnitPrice, v.CreatedAt, v.ExpiresAt = &r.UnitPrice, &r.CreatedAt, &r.ExpiresAt
	if total, err := r.Total(); err == nil {
		v.Total = &total
	}
	v.Links.Order = "/api/v1/orders/" + r.ID.String()
	if r.State == reservation.Held {
		v.Links.Pay = v.Links.Order + "/payments"
	}
	return v
}
