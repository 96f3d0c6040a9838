package httpapi

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"flashsale/account"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/money"
	"flashsale/order"
	"flashsale/payment"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
)

// Orders are the use cases behind the cart and order routes.
type Orders interface {
	Order(ctx context.Context, user, order id.ID) (order.Order, error)
	Orders(ctx context.Context, user id.ID, after order.Cursor, limit int) ([]order.Order, error)
	CreateCart(ctx context.Context, user id.ID) (order.Cart, error)
	AddItem(ctx context.Context, user, cart, sale id.ID, sku string, quantity int) (order.Cart, error)
	Cart(ctx context.Context, user, cart id.ID) (order.Cart, error)
}

// MountOrders adds the routes of the order service.
func (a *API) MountOrders(s Orders) {
	shopper := a.auth(account.Shopper)
	a.app.Post("/api/v1/carts", shopper, func(c *fiber.Ctx) error {
		if len(c.Body()) > 0 {
			if _, err := decode[struct{}](c); err != nil {
				return err
			}
		}
		cart, err := s.CreateCart(c.UserContext(), user(c))
		if err != nil {
			return err
		}
		c.Location("/api/v1/carts/" + cart.ID.String())
		return c.Status(fiber.StatusCreated).JSON(viewCart(cart))
	})
	a.app.Get("/api/v1/carts/:id", shopper, func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		cart, err := s.Cart(c.UserContext(), user(c), v)
		if err != nil {
			return err
		}
		return c.JSON(viewCart(cart))
	})
	a.app.Post("/api/v1/carts/:id/items", shopper, func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		body, err := decode[struct {
			Sale     id.ID  `json:"sale_id"`
			SKU      string `json:"sku"`
			Quantity int    `json:"quantity"`
		}](c)
		if err != nil {
			return err
		}
		cart, err := s.AddItem(c.UserContext(), user(c), v, body.Sale, body.SKU, body.Quantity)
		if err != nil {
			return err
		}
		return c.JSON(viewCart(cart))
	})
	a.app.Get("/api/v1/orders", shopper, func(c *fiber.Ctx) error { return listOrders(c, s) })
	a.app.Get("/api/v1/orders/:id", shopper, func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		o, err := s.Order(c.UserContext(), user(c), v)
		if err != nil {
			return err
		}
		return c.JSON(viewOrder(o))
	})
}

func listOrders(c *fiber.Ctx, s Orders) error {
	q, err := query(c, "limit", "after")
	if err != nil {
		return err
	}
	limit, err := wholeNumber(q, "limit")
	if err != nil {
		return err
	}
	if limit == 0 {
		limit = 20
	}
	if limit > 100 {
		return badBody{"The query parameter limit is at most 100."}
	}
	var after order.Cursor
	if s, ok := q["after"]; ok {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil || len(b) != 24 {
			return badBody{"The query parameter after is not one that an answer has given; take the next link as it is."}
		}
		after.CreatedAt = time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC()
		copy(after.ID[:], b[8:])
	}
	list, err := s.Orders(c.UserContext(), user(c), after, int(limit)+1)
	if err != nil {
		return err
	}
	out := fiber.Map{}
	if len(list) > int(limit) {
		list = list[:limit]
		last := list[limit-1]
		b := binary.BigEndian.AppendUint64(nil, uint64(last.CreatedAt.UnixMicro()))
		out["next"] = "/api/v1/orders?limit=" + c.Query("limit", "20") + "&after=" + base64.RawURLEncoding.EncodeToString(append(b, last.ID[:]...))
	}
	views := make([]orderView, len(list))
	for i, o := range list {
		views[i] = viewOrder(o)
	}
	out["orders"] = views
	return c.JSON(out)
}

type orderView struct {
	ID          id.ID             `json:"id"`
	Reservation id.ID             `json:"reservation_id"`
	State       order.State       `json:"state"`
	Reason      string            `json:"reason,omitempty"`
	Sale        id.ID             `json:"sale_id"`
	SKU         string            `json:"sku"`
	Quantity    int               `json:"quantity"`
	UnitPrice   money.Money       `json:"unit_price"`
	Total       money.Money       `json:"total"`
	CreatedAt   time.Time         `json:"created_at"`
	ExpiresAt   time.Time         `json:"expires_at"`
	Links       map[string]string `json:"links"`
}

func viewOrder(o order.Order) orderView {
	v := orderView{
		ID: o.ID, Reservation: o.ID, State: o.State, Reason: o.Reason, Sale: o.Sale, SKU: o.SKU, Quantity: o.Quantity,
		UnitPrice: o.UnitPrice, Total: o.Total, CreatedAt: o.CreatedAt, ExpiresAt: o.ExpiresAt,
		Links: map[string]string{"self": "/api/v1/orders/" + o.ID.String(), "reservation": "/api/v1/reservations/" + o.ID.String()},
	}
	if o.State == order.Open {
		v.Links["pay"] = v.Links["self"] + "/payments"
	}
	return v
}

type cartView struct {
	ID         id.ID          `json:"id"`
	CheckedOut bool           `json:"checked_out"`
	Items      []cartItemView `json:"items"`
	CreatedAt  time.Time      `json:"created_at"`
}

type cartItemView struct {
	Sale      id.ID       `json:"sale_id"`
	SKU       string      `json:"sku"`
	Quantity  int         `json:"quantity"`
	UnitPrice money.Money `json:"unit_price"`
}

func viewCart(c order.Cart) cartView {
	v := cartView{ID: c.ID, CheckedOut: c.CheckedOut, Items: []cartItemView{}, CreatedAt: c.CreatedAt}
	for _, i := range c.Items {
		v.Items = append(v.Items, cartItemView(i))
	}
	return v
}

// Payments are the use cases behind the payment routes.
type Payments interface {
	Pay(ctx context.Context, user, order id.ID, key, method, trace string) (engine.Payment, error)
	Payment(ctx context.Context, user, payment id.ID) (payment.Payment, error)
	Refund(ctx context.Context, order id.ID, trace string) (engine.Payment, error)
}

// MountPayments adds the routes of the payment service.
func (a *API) MountPayments(s Payments) {
	a.app.Post("/api/v1/orders/:id/payments", a.auth(account.Shopper), func(c *fiber.Ctx) error { return a.pay(c, s) })
	a.app.Get("/api/v1/payments/:id", a.auth(account.Shopper), func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		p, err := s.Payment(c.UserContext(), user(c), v)
		if err != nil {
			return err
		}
		switch p.State {
		case payment.Requested, payment.Charging, payment.Unknown, payment.Refunding:
			a.lookAgain(c, p.UpdatedAt)
		}
		return c.JSON(viewPayment(p))
	})
	a.app.Post("/api/v1/admin/orders/:id/refund", a.auth(account.Operator), func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		out, err := s.Refund(c.UserContext(), v, trace(c))
		if err != nil {
			return err
		}
		if !out.Decided {
			return c.Status(fiber.StatusAccepted).JSON(viewPayment(out.Payment))
		}
		return c.JSON(viewPayment(out.Payment))
	})
}

func (a *API) pay(c *fiber.Ctx, s Payments) error {
	v, err := pathID(c)
	if err != nil {
		return err
	}
	key, err := idempotencyKey(c)
	if err != nil {
		return err
	}
	body, err := decode[struct {
		Method string `json:"method"`
	}](c)
	if err != nil {
		return err
	}
	if n := len(body.Method); n < 1 || n > 128 || strings.ContainsFunc(body.Method, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return badBody{"The body needs method, the token of a means of payment: 1 to 128 visible ASCII characters."}
	}
	leave, err := a.inFlight.enter(user(c), "pay "+v.String(), key)
	if err != nil {
		return err
	}
	defer leave()
	out, err := s.Pay(c.UserContext(), user(c), v, key, body.Method, trace(c))
	if err != nil {
		return err
	}
	c.Location("/api/v1/payments/" + out.Payment.ID.String())
	if out.Replayed {
		c.Set("Idempotency-Replayed", "true")
	}
	switch {
	case !out.Decided:
		a.lookAgain(c, out.Payment.UpdatedAt)
		return c.Status(fiber.StatusAccepted).JSON(viewPayment(out.Payment))
	case out.Payment.State == payment.Declined:
		return errDeclined
	}
	return c.Status(fiber.StatusCreated).JSON(viewPayment(out.Payment))
}

type paymentView struct {
	ID        id.ID             `json:"id"`
	Order     id.ID             `json:"order_id"`
	State     payment.State     `json:"state"`
	Reason    string            `json:"reason,omitempty"`
	Amount    money.Money       `json:"amount"`
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
	Links     map[string]string `json:"links"`
}

func viewPayment(p payment.Payment) paymentView {
	return paymentView{
		ID: p.ID, Order: p.Order, State: p.State, Reason: p.Reason, Amount: p.Amount, CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt,
		Links: map[string]string{"self": "/api/v1/payments/" + p.ID.String(), "order": "/api/v1/orders/" + p.Order.String()},
	}
}
