package console

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strconv"
)

// formKey returns the Idempotency-Key that the form was rendered with.
func (v *visit) formKey() (string, error) {
	k := v.r.PostForm.Get("key")
	ok := len(k) >= 1 && len(k) <= 128
	for i := range len(k) {
		ok = ok && k[i] > ' ' && k[i] < 0x7f
	}
	if !ok {
		return "", errForm
	}
	return k, nil
}

// wording returns the notice of an error that a form's page can show: a refusal, or an API that does not answer. Not a
// login that is needed first, which is a page of its own.
func (v *visit) wording(err error) *notice {
	if errors.Is(err, errLogin) || refusal(err) == nil && !errors.Is(err, errDown) {
		return nil
	}
	n := v.explain(err)
	return &n
}

type refusedView struct {
	Notice    notice
	Sale      string
	SKU       string
	Name      string
	Quantity  int
	UnitPrice money
	Key       string
}

// reserve sends the form on. The same form sent twice has the same key: one reservation.
func (c *Console) reserve(v *visit) error {
	id, err := v.pathID()
	if err != nil {
		return err
	}
	key, err := v.formKey()
	if err != nil {
		return err
	}
	form := v.r.PostForm
	quantity, err := strconv.Atoi(form.Get("quantity"))
	amount, amountErr := strconv.ParseInt(form.Get("amount"), 10, 64)
	if err != nil || amountErr != nil {
		return errForm
	}
	out := refusedView{Sale: id, SKU: form.Get("sku"), Quantity: quantity, UnitPrice: money{amount, form.Get("currency")}}
	r, err := read[reservation](v.authorized(call{
		method: http.MethodPost, path: "/api/v1/reservations", key: key,
		body: map[string]any{"sale_id": id, "sku": out.SKU, "quantity": quantity, "unit_price": out.UnitPrice},
	}))
	if n := v.wording(err); n != nil {
		out.Notice, out.Name = *n, v.nameOf(id, out.SKU)
		if out.Key = key; n.Again == newKey {
			out.Key = rand.Text()
		}
		return v.render(n.Status, "refused", view{Title: n.Title, Section: "sales", D: out})
	}
	if err != nil {
		return err
	}
	return v.goTo("/reservations/" + url.PathEscape(r.ID))
}

type reservationView struct {
	Reservation reservation
	Name        string
	Key         string // of the payment's form
	Reason      *notice
}

func (v *visit) reservation(id string) (reservation, error) {
	return read[reservation](v.authorized(call{method: http.MethodGet, path: "/api/v1/reservations/" + id}))
}

func (v *visit) reservationPage(status int, r reservation, n *notice, key string) error {
	out := reservationView{Reservation: r, Name: r.SKU, Key: key}
	if r.Sale != "" {
		out.Name = v.nameOf(r.Sale, r.SKU)
	}
	if r.State == "refused" {
		reason := reasonNotice(r.Reason)
		out.Reason = &reason
	}
	p := view{Title: "Reservation", Section: "orders", Notice: n, D: out}
	if r.State == "requested" || r.State == "held" || r.State == "paying" {
		self := "/reservations/" + r.ID
		p.Poll = &poll{URL: self + "/state", Self: self, State: r.State, Undecided: r.State != "held"}
	}
	return v.render(status, "reservation", p)
}

func (c *Console) showReservation(v *visit) error {
	id, err := v.pathID()
	if err != nil {
		return err
	}
	r, err := v.reservation(id)
	if err != nil {
		return err
	}
	return v.reservationPage(http.StatusOK, r, nil, rand.Text())
}

// pay sends the form on, and shows a refusal on the reservation as it is then.
func (c *Console) pay(v *visit) error {
	id, err := v.pathID()
	if err != nil {
		return err
	}
	key, err := v.formKey()
	if err != nil {
		return err
	}
	orderID := v.r.PostForm.Get("order")
	if !isID(orderID) {
		return errForm
	}
	a, err := v.authorized(call{
		method: http.MethodPost, path: "/api/v1/orders/" + orderID + "/payments", key: key, body: map[string]string{"method": v.r.PostForm.Get("method")},
	})
	if n := v.wording(err); n != nil {
		return v.refusedOn(id, n, key, err)
	}
	p, err := read[payment](a, err)
	switch {
	case err != nil:
		return err
	case a.status == http.StatusAccepted:
		return v.goTo("/payments/" + url.PathEscape(p.ID))
	}
	return v.goTo("/orders/" + orderID)
}

// refusedOn shows why a form of a reservation was refused. A form that is to be sent again keeps its key.
func (v *visit) refusedOn(id string, n *notice, key string, cause error) error {
	r, err := v.reservation(id)
	if err != nil {
		return cause
	}
	if n.Kind == "not-found" && r.State == "held" { // in the asynchronous wiring the order follows the hold
		n.Title, n.Next = "Nearly ready", "Your order is still being written. Wait a moment, then pay again: you are charged once."
		n.Again = sameKey
	}
	if n.Again != sameKey {
		key = rand.Text()
	}
	n.Actions = nil
	return v.reservationPage(n.Status, r, n, key)
}

func (c *Console) cancel(v *visit) error {
	id, err := v.pathID()
	if err != nil {
		return err
	}
	a, err := v.authorized(call{method: http.MethodDelete, path: "/api/v1/reservations/" + id})
	if n := v.wording(err); n != nil {
		return v.refusedOn(id, n, "", err)
	}
	if err != nil {
		return err
	}
	if a.status == http.StatusAccepted {
		return v.goTo("/reservations/" + id + "?said=accepted")
	}
	return v.goTo("/reservations/" + id + "?said=cancelled")
}

func (c *Console) showPayment(v *visit) error {
	id, err := v.pathID()
	if err != nil {
		return err
	}
	p, err := read[payment](v.authorized(call{method: http.MethodGet, path: "/api/v1/payments/" + id}))
	if err != nil {
		return err
	}
	out := view{Title: "Payment", Section: "orders", D: p}
	switch p.State {
	case "requested", "charging", "unknown", "refunding":
		self := "/payments/" + id
		out.Poll = &poll{URL: self + "/state", Self: self, State: p.State, Undecided: true}
	}
	return v.render(http.StatusOK, "payment", out)
}

func (c *Console) showOrders(v *visit) error {
	path := "/api/v1/orders?limit=20"
	if after := v.r.URL.Query().Get("after"); after != "" {
		path += "&after=" + url.QueryEscape(after)
	}
	got, err := read[struct {
		Orders []order `json:"orders"`
		Next   string  `json:"next"`
	}](v.authorized(call{method: http.MethodGet, path: path}))
	if err != nil {
		return err
	}
	return v.render(http.StatusOK, "orders", view{Title: "Your orders", Section: "orders", D: struct {
		Orders []order
		Next   string
	}{got.Orders, cursor(got.Next, "after")}})
}

func (c *Console) showOrder(v *visit) error {
	id, err := v.pathID()
	if err != nil {
		return err
	}
	o, err := read[order](v.authorized(call{method: http.MethodGet, path: "/api/v1/orders/" + id}))
	if err != nil {
		return err
	}
	out := view{Title: "Order", Section: "orders", D: struct {
		Order order
		Name  string
	}{o, v.nameOf(o.Sale, o.SKU)}}
	if o.State == "open" {
		self := "/orders/" + id
		out.Poll = &poll{URL: self + "/state", Self: self, State: o.State}
	}
	return v.render(http.StatusOK, "order", out)
}
