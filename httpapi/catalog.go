package httpapi

import (
	"context"
	"flashsale/account"
	"flashsale/catalog"
	"flashsale/id"
	"flashsale/money"
	"flashsale/transport"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
)

// Catalog are the use cases behind the product and sale routes. Reads say whether they came from
// the cache; writes return the event to send on.
type Catalog interface {
	Search(ctx context.Context, f catalog.Filter) (catalog.Page, bool, error)
	Product(ctx context.Context, product id.ID) (catalog.Details, bool, error)
	Sale(ctx context.Context, sale id.ID) (catalog.SaleView, bool, error)
	Sales(ctx context.Context, before id.ID, limit int) ([]catalog.Sale, bool, error)
	CreateProduct(ctx context.Context, p catalog.Product) (catalog.Product, error)
	CreateSale(ctx context.Context, s catalog.Sale) (catalog.Sale, transport.Envelope, error)
	SetStatus(ctx context.Context, sale id.ID, to catalog.Status) (catalog.Sale, transport.Envelope, error)
	AddStock(ctx context.Context, sale id.ID, sku string, addition id.ID, units int64) (catalog.Sale, transport.Envelope, error)
}

// Tell sends an event of the catalogue on and reports whether it was decided. What could not be
// sent is in the outbox and sent later.
type Tell func(ctx context.Context, e transport.Envelope) (decided bool)

// MountCatalog adds the routes of the catalogue.
func (a *API) MountCatalog(s Catalog, tell Tell) {
	a.app.Get("/api/v1/products", func(c *fiber.Ctx) error { return listProducts(c, s, "/api/v1/products", "limit", "page") })
	a.app.Get("/api/v1/products/search", func(c *fiber.Ctx) error {
		return listProducts(c, s, "/api/v1/products/search", "q", "category", "min_price", "max_price", "limit", "page")
	})
	a.app.Get("/api/v1/products/:id", func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		d, hit, err := s.Product(c.UserContext(), v)
		if err != nil {
			return err
		}
		return cachedJSON(c, hit, viewDetails(d))
	})
	a.app.Get("/api/v1/sales", func(c *fiber.Ctx) error { return listSales(c, s) })
	a.app.Get("/api/v1/sales/:id", func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		view, hit, err := s.Sale(c.UserContext(), v)
		if err != nil {
			return err
		}
		return cachedJSON(c, hit, viewSale(view.Sale, view.Stock))
	})
	a.mountCatalogAdmin(s, tell)
}

// cachedJSON answers a read and says whether it was a cache hit.
func cachedJSON(c *fiber.Ctx, hit bool, v any) error {
	if hit {
		c.Set("X-Cache", "HIT")
	} else {
		c.Set("X-Cache", "MISS")
	}
	return c.JSON(v)
}

func listProducts(c *fiber.Ctx, s Catalog, path string, names ...string) error {
	q, err := query(c, names...)
	if err != nil {
		return err
	}
	f := catalog.Filter{Category: q["category"], Words: catalog.Words(q["q"])}
	if len(q["q"]) > 4*catalog.MaxQuery || utf8.RuneCountInString(q["q"]) > catalog.MaxQuery || !utf8.ValidString(q["q"]) {
		return badBody{"The query parameter q has at most " + strconv.Itoa(catalog.MaxQuery) + " characters of UTF-8."}
	}
	if q["q"] != "" && len(f.Words) == 0 { // only punctuation: that begins no word
		return cachedJSON(c, false, fiber.Map{"products": []productView{}})
	}
	var limit int64
	for name, into := range map[string]*int64{"min_price": &f.MinPrice, "max_price": &f.MaxPrice, "limit": &limit} {
		if *into, err = wholeNumber(q, name); err != nil {
			return err
		}
	}
	f.Limit = int(limit)
	if f.After, err = cursorID(q, "page"); err != nil {
		return err
	}
	page, hit, err := s.Search(c.UserContext(), f)
	if err != nil {
		return err
	}
	views := make([]productView, len(page.Products))
	for i, p := range page.Products {
		views[i] = viewProduct(p)
	}
	out := fiber.Map{"products": views}
	if !page.Next.IsZero() {
		next := url.Values{}
		for k, v := range q {
			next.Set(k, v)
		}
		next.Set("page", page.Next.String())
		out["next"] = path + "?" + next.Encode()
	}
	return cachedJSON(c, hit, out)
}

func listSales(c *fiber.Ctx, s Catalog) error {
	q, err := query(c, "limit", "page")
	if err != nil {
		return err
	}
	limit, err := wholeNumber(q, "limit")
	if err != nil {
		return err
	}
	before, err := cursorID(q, "page")
	if err != nil {
		return err
	}
	sales, hit, err := s.Sales(c.UserContext(), before, int(limit))
	if err != nil {
		return err
	}
	views := make([]saleView, len(sales))
	for i, v := range sales {
		views[i] = viewSale(v, nil)
	}
	out := fiber.Map{"sales": views}
	if n := len(sales); n > 0 && (n == int(limit) || limit == 0 && n == catalog.DefaultPage) {
		out["next"] = "/api/v1/sales?limit=" + strconv.Itoa(n) + "&page=" + sales[n-1].ID.String()
	}
	return cachedJSON(c, hit, out)
}

func (a *API) mountCatalogAdmin(s Catalog, tell Tell) {
	operator := a.auth(account.Operator)
	a.app.Post("/api/v1/admin/products", operator, func(c *fiber.Ctx) error {
		body, err := decode[struct {
			SKU         string      `json:"sku"`
			Name        string      `json:"name"`
			Description string      `json:"description"`
			Category    string      `json:"category"`
			Price       money.Money `json:"price"`
		}](c)
		if err != nil {
			return err
		}
		p, err := s.CreateProduct(c.UserContext(), catalog.Product{
			SKU: body.SKU, Name: body.Name, Description: body.Description, Category: body.Category, Price: body.Price,
		})
		if err != nil {
			return err
		}
		c.Location("/api/v1/products/" + p.ID.String())
		return c.Status(fiber.StatusCreated).JSON(viewProduct(p))
	})
	a.app.Post("/api/v1/admin/sales", operator, func(c *fiber.Ctx) error { return createSale(c, s, tell) })
	for verb, to := range map[string]catalog.Status{"open": catalog.Open, "pause": catalog.Paused, "end": catalog.Ended} {
		a.app.Post("/api/v1/admin/sales/:id/"+verb, operator, func(c *fiber.Ctx) error {
			v, err := pathID(c)
			if err != nil {
				return err
			}
			sale, e, err := s.SetStatus(c.UserContext(), v, to)
			if err != nil {
				return err
			}
			return told(c, tell, e, fiber.StatusOK, sale)
		})
	}
	a.app.Post("/api/v1/admin/sales/:id/items/:sku/stock", operator, func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		key, err := idempotencyKey(c)
		if err != nil {
			return err
		}
		body, err := decode[struct {
			Quantity int64 `json:"quantity"`
		}](c)
		if err != nil {
			return err
		}
		sku := c.Params("sku")
		sale, e, err := s.AddStock(c.UserContext(), v, sku, id.DeriveFor(user(c), "addition", v.String(), sku, key), body.Quantity)
		if err != nil {
			return err
		}
		return told(c, tell, e, fiber.StatusOK, sale)
	})
}

// told sends an event on and answers with the sale: 202 when the ledger only has it soon.
func told(c *fiber.Ctx, tell Tell, e transport.Envelope, status int, sale catalog.Sale) error {
	if e.Type != "" && !tell(c.UserContext(), e) {
		status = fiber.StatusAccepted
	}
	c.Location("/api/v1/sales/" + sale.ID.String())
	return c.Status(status).JSON(viewSale(sale, nil))
}

func createSale(c *fiber.Ctx, s Catalog, tell Tell) error {
	body, err := decodeLarge[struct {
		Name    string    `json:"name"`
		OpensAt time.Time `json:"opens_at"`
		EndsAt  time.Time `json:"ends_at"`
		Limit   int       `json:"per_user_limit"`
		Hold    int64     `json:"hold_seconds"`
		Items   []struct {
			SKU       string      `json:"sku"`
			UnitPrice money.Money `json:"unit_price"`
			Stock     int64       `json:"stock"`
		} `json:"items"`
	}](c)
	if err != nil {
		return err
	}
	v := catalog.Sale{Name: body.Name, OpensAt: body.OpensAt, EndsAt: body.EndsAt, PerUserLimit: body.Limit}
	if body.Hold > 0 && body.Hold <= int64(24*time.Hour/time.Second) {
		v.HoldFor = time.Duration(body.Hold) * time.Second
	}
	for _, i := range body.Items {
		v.Items = append(v.Items, catalog.SaleItem{SKU: i.SKU, UnitPrice: i.UnitPrice, Stock: i.Stock})
	}
	sale, e, err := s.CreateSale(c.UserContext(), v)
	if err != nil {
		return err
	}
	return told(c, tell, e, fiber.StatusCreated, sale)
}

type productView struct {
	ID          id.ID       `json:"id"`
	SKU         string      `json:"sku"`
	Name        string      `json:"name"`
	Description string      `json:"description"`
	Category    string      `json:"category"`
	Price       money.Money `json:"price"`
	CreatedAt   time.Time   `json:"created_at"`
	Offers      []offerView `json:"offers,omitempty"`
}

type offerView struct {
	Sale      id.ID          `json:"sale_id"`
	Status    catalog.Status `json:"status"`
	OpensAt   time.Time      `json:"opens_at"`
	EndsAt    time.Time      `json:"ends_at"`
	UnitPrice money.Money    `json:"unit_price"`
	Limit     int            `json:"per_user_limit"`
	Available *int64         `json:"available,omitempty"`
}

func viewProduct(p catalog.Product) productView {
	return productView{ID: p.ID, SKU: p.SKU, Name: p.Name, Description: p.Description, Category: p.Category, Price: p.Price, CreatedAt: p.CreatedAt}
}

func viewDetails(d catalog.Details) productView {
	v := viewProduct(d.Product)
	for _, o := range d.Offers {
		w := offerView{
			Sale: o.Sale.ID, Status: o.Sale.Status, OpensAt: o.Sale.OpensAt, EndsAt: o.Sale.EndsAt, UnitPrice: o.Item.UnitPrice, Limit: o.Sale.PerUserLimit,
		}
		if o.Stock != nil {
			w.Available = &o.Stock.Available
		}
		v.Offers = append(v.Offers, w)
	}
	return v
}

type saleView struct {
	ID       id.ID          `json:"id"`
	Name     string         `json:"name"`
	Status   catalog.Status `json:"status"`
	OpensAt  time.Time      `json:"opens_at"`
	EndsAt   time.Time      `json:"ends_at"`
	Limit    int            `json:"per_user_limit"`
	Hold     int64          `json:"hold_seconds"`
	Items    []saleItemView `json:"items"`
	Revision int64          `json:"revision"`
}

type saleItemView struct {
	SKU       string      `json:"sku"`
	Product   id.ID       `json:"product_id"`
	UnitPrice money.Money `json:"unit_price"`
	Stock     int64       `json:"stock"`
	Available *int64      `json:"available,omitempty"`
	Held      *int64      `json:"held,omitempty"`
	Sold      *int64      `json:"sold,omitempty"`
}

func viewSale(s catalog.Sale, stock map[string]catalog.ItemStock) saleView {
	v := saleView{
		ID: s.ID, Name: s.Name, Status: s.Status, OpensAt: s.OpensAt, EndsAt: s.EndsAt, Limit: s.PerUserLimit,
		Hold: int64(s.HoldFor / time.Second), Items: []saleItemView{}, Revision: s.Revision,
	}
	for _, i := range s.Items {
		w := saleItemView{SKU: i.SKU, Product: i.Product, UnitPrice: i.UnitPrice, Stock: i.Stock}
		if n, ok := stock[i.SKU]; ok {
			w.Stock, w.Available, w.Held, w.Sold = n.Total, &n.Available, &n.Held, &n.Sold
		}
		v.Items = append(v.Items, w)
	}
	return v
}
