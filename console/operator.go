package console

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

func (c *Console) showOperator(v *visit) error {
	cards, next, err := v.salesPage()
	if err != nil {
		return err
	}
	each(len(cards), func(i int) {
		s, err := v.sale(cards[i].Sale.ID)
		if err != nil {
			return // shown without figures
		}
		for _, item := range s.Items {
			cards[i].Stock = cards[i].Stock.plus(stockOf(item))
		}
	})
	return v.render(http.StatusOK, "operator", view{Title: "Operator console", Section: "operator", D: struct {
		Cards []saleCard
		Next  string
	}{cards, next}})
}

func (c *Console) showOperatorSale(v *visit) error {
	s, err := v.salePage()
	if err != nil {
		return err
	}
	p := s.poll("/operator/sales/")
	p.State = s.Sale.Status
	return v.render(http.StatusOK, "operator_sale", view{Title: s.Sale.Name, Section: "operator", Poll: p, D: s})
}

// changed goes back to a sale's page after the API took a change.
func (v *visit) changed(id string, a answer) error {
	v.c.sales.forget(id)
	if a.status == http.StatusAccepted {
		return v.goTo("/operator/sales/" + id + "?said=accepted")
	}
	return v.goTo("/operator/sales/" + id + "?said=done")
}

func (c *Console) setStatus(v *visit) error {
	id, err := v.pathID()
	if err != nil {
		return err
	}
	verb := v.r.PathValue("verb")
	if verb != "open" && verb != "pause" && verb != "end" {
		return errNoPage
	}
	a, err := v.authorized(call{method: http.MethodPost, path: "/api/v1/admin/sales/" + id + "/" + verb})
	if err != nil {
		return err
	}
	return v.changed(id, a)
}

func (c *Console) addStock(v *visit) error {
	id, err := v.pathID()
	if err != nil {
		return err
	}
	key, err := v.formKey()
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(v.r.PostForm.Get("quantity"), 10, 64)
	if err != nil {
		return errForm
	}
	a, err := v.authorized(call{
		method: http.MethodPost, path: "/api/v1/admin/sales/" + id + "/items/" + url.PathEscape(v.r.PathValue("sku")) + "/stock",
		key: key, body: map[string]int64{"quantity": n},
	})
	if err != nil {
		return err
	}
	return v.changed(id, a)
}

type productForm struct{ SKU, Name, Description, Category, Price, Currency string }

func (c *Console) showNewProduct(v *visit) error {
	return v.productPage(http.StatusOK, productForm{Currency: "EUR"}, nil)
}

func (v *visit) productPage(status int, f productForm, n *notice) error {
	return v.render(status, "product_new", view{Title: "New product", Section: "operator", Notice: n, D: f})
}

// notAllowed words a value that the console itself cannot read.
func notAllowed(next string) *notice {
	return &notice{Status: http.StatusUnprocessableEntity, Kind: "invalid", Title: "A value is not allowed", Next: next}
}

// correctable returns the notice of a refusal that another value in the form can mend.
func correctable(err error) *notice {
	p := refusal(err)
	if p == nil || p.Status != http.StatusBadRequest && p.Status != http.StatusConflict && p.Status != http.StatusUnprocessableEntity {
		return nil
	}
	n := noticeOf(p)
	return &n
}

func (c *Console) createProduct(v *visit) error {
	in := v.r.PostForm
	f := productForm{in.Get("sku"), in.Get("name"), in.Get("description"), in.Get("category"), in.Get("price"), in.Get("currency")}
	price, err := parseMoney(f.Price, f.Currency)
	if err != nil {
		return v.productPage(http.StatusUnprocessableEntity, f, notAllowed("Write the price such as 19.90, with no more digits than the currency has."))
	}
	p, err := read[product](v.authorized(call{method: http.MethodPost, path: "/api/v1/admin/products", body: map[string]any{
		"sku": f.SKU, "name": f.Name, "description": f.Description, "category": f.Category, "price": price,
	}}))
	if n := correctable(err); n != nil {
		return v.productPage(n.Status, f, n)
	}
	if err != nil {
		return err
	}
	return v.goTo("/products/" + url.PathEscape(p.ID) + "?said=product")
}

const (
	formTime  = "2006-01-02T15:04"
	firstRows = 3
	moreRows  = 5
	maxRows   = 50
)

type saleRow struct{ SKU, Price, Stock string }

func (r saleRow) empty() bool { return strings.TrimSpace(r.SKU+r.Price+r.Stock) == "" }

type saleForm struct {
	Name, OpensAt, EndsAt, Limit, Hold, Currency, Key string
	Rows                                              []saleRow
	Products                                          []product // suggestions
}

func (c *Console) showNewSale(v *visit) error {
	now := c.cfg.Clock().UTC().Truncate(time.Minute)
	return v.salePageNew(http.StatusOK, saleForm{
		OpensAt: now.Format(formTime), EndsAt: now.Add(time.Hour).Format(formTime), Limit: "2", Hold: "300", Currency: "EUR", Key: rand.Text(),
		Rows: make([]saleRow, firstRows),
	}, nil)
}

func (v *visit) salePageNew(status int, f saleForm, n *notice) error {
	got, err := fetch[struct {
		Products []product `json:"products"`
	}](v.r.Context(), v.c, v.r, call{method: http.MethodGet, path: "/api/v1/products?limit=100"})
	if err == nil { // suggestions only
		f.Products = got.Products
	}
	return v.render(status, "sale_new", view{Title: "New sale", Section: "operator", Notice: n, D: f})
}

type newItem struct {
	SKU       string `json:"sku"`
	UnitPrice money  `json:"unit_price"`
	Stock     int64  `json:"stock"`
}

type newSale struct {
	Name    string    `json:"name"`
	OpensAt time.Time `json:"opens_at"`
	EndsAt  time.Time `json:"ends_at"`
	Limit   int       `json:"per_user_limit"`
	Hold    int       `json:"hold_seconds"`
	Items   []newItem `json:"items"`
}

// parse reads the form, or says which value cannot be read. Bounds are the API's to check.
func (f saleForm) parse() (newSale, *notice) {
	s := newSale{Name: f.Name, Items: []newItem{}}
	var err error
	if s.OpensAt, err = parseTime(f.OpensAt); err != nil {
		return s, notAllowed("Choose when the sale opens.")
	}
	if s.EndsAt, err = parseTime(f.EndsAt); err != nil {
		return s, notAllowed("Choose when the sale ends.")
	}
	if s.Limit, err = strconv.Atoi(f.Limit); err != nil {
		return s, notAllowed("The limit per shopper is a whole number; 0 for none.")
	}
	if s.Hold, err = strconv.Atoi(f.Hold); err != nil {
		return s, notAllowed("The time to pay is a whole number of seconds.")
	}
	for _, r := range f.Rows {
		if r.empty() {
			continue
		}
		i := newItem{SKU: strings.TrimSpace(r.SKU)}
		if i.UnitPrice, err = parseMoney(r.Price, f.Currency); err != nil {
			return s, notAllowed("The price of " + i.SKU + " is a number such as 19.90, with no more digits than the currency has.")
		}
		if i.Stock, err = strconv.ParseInt(strings.TrimSpace(r.Stock), 10, 64); err != nil {
			return s, notAllowed("The units of " + i.SKU + " are a whole number.")
		}
		s.Items = append(s.Items, i)
	}
	if len(s.Items) == 0 {
		return s, notAllowed("Name at least one item with its price and units.")
	}
	return s, nil
}

// parseTime reads what a datetime-local field sends, as UTC. Browsers add seconds when there are some.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(formTime, s)
	if err != nil {
		t, err = time.Parse("2006-01-02T15:04:05", s)
	}
	return t, err
}

func saleFormOf(in url.Values) saleForm {
	f := saleForm{
		Name: in.Get("name"), OpensAt: in.Get("opens_at"), EndsAt: in.Get("ends_at"), Limit: in.Get("limit"), Hold: in.Get("hold"),
		Currency: in.Get("currency"), Key: in.Get("key"),
	}
	at := func(name string, i int) string {
		if v := in[name]; i < len(v) {
			return v[i]
		}
		return ""
	}
	for i := range min(len(in["sku"]), maxRows) {
		f.Rows = append(f.Rows, saleRow{at("sku", i), at("price", i), at("stock", i)})
	}
	return f
}

// createSale sends the form on. The API takes no Idempotency-Key here, so this process remembers what a form has made:
// a double click makes one sale.
func (c *Console) createSale(v *visit) error {
	key, err := v.formKey()
	if err != nil {
		return err
	}
	f := saleFormOf(v.r.PostForm)
	if v.r.PostForm.Has("more") { // the button that works without the script
		f.Rows = append(f.Rows, make([]saleRow, min(moreRows, maxRows-len(f.Rows)))...)
		return v.salePageNew(http.StatusOK, f, nil)
	}
	body, n := f.parse()
	if n != nil {
		return v.salePageNew(n.Status, f, n)
	}
	made, err := c.created.get(v.r.Context(), digest(v.session.csrf, key), func(context.Context) (createdSale, error) {
		a, err := v.authorized(call{method: http.MethodPost, path: "/api/v1/admin/sales", body: body})
		s, err := read[sale](a, err)
		return createdSale{s.ID, a}, err
	})
	if n := correctable(err); n != nil {
		return v.salePageNew(n.Status, f, n)
	}
	if err != nil {
		return err
	}
	return v.changed(made.id, made.answer)
}

type createdSale struct {
	id     string
	answer answer
}

type refundView struct {
	Order   string
	Payment *payment
	Decided bool
}

func (c *Console) showRefund(v *visit) error {
	return v.refundPage(http.StatusOK, refundView{Order: v.r.URL.Query().Get("order")}, nil)
}

func (v *visit) refundPage(status int, d refundView, n *notice) error {
	return v.render(status, "refund", view{Title: "Refund an order", Section: "operator", Notice: n, D: d})
}

// refund refunds an order once, however often it is asked for.
func (c *Console) refund(v *visit) error {
	out := refundView{Order: strings.ToLower(strings.TrimSpace(v.r.PostForm.Get("order")))}
	if !isID(out.Order) {
		return v.refundPage(http.StatusUnprocessableEntity, out, notAllowed("An order's id has 36 digits and dashes; copy it from the order's page."))
	}
	a, err := v.authorized(call{method: http.MethodPost, path: "/api/v1/admin/orders/" + out.Order + "/refund"})
	if p := refusal(err); p != nil && p.Status == http.StatusNotFound {
		n := noticeOf(p)
		n.Title, n.Next = "No payment to refund", "No order of this id has been paid for. Check the id with the shopper."
		return v.refundPage(n.Status, out, &n)
	}
	if n := correctable(err); n != nil {
		n.Next = "Only an order that is confirmed can be refunded. Ask the shopper how it stands."
		return v.refundPage(n.Status, out, n)
	}
	p, err := read[payment](a, err)
	if err != nil {
		return err
	}
	out.Payment, out.Decided = &p, a.status == http.StatusOK
	return v.refundPage(http.StatusOK, out, nil)
}

// showAudit explains the audit, and runs it when asked to: it reads every book.
func (c *Console) showAudit(v *visit) error {
	out := view{Title: "Audit", Section: "operator", D: (*report)(nil)}
	if v.r.URL.Query().Get("run") == "" {
		return operatorOnly(func(v *visit) error { return v.render(http.StatusOK, "audit", out) })(v)
	}
	r, err := read[report](v.authorized(call{method: http.MethodGet, path: "/api/v1/admin/audit"}))
	if err != nil {
		return err
	}
	out.D = &r
	return v.render(http.StatusOK, "audit", out)
}
