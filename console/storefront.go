package console

import (
	"crypto/rand"
	"math"
	"net/http"
	"net/url"
	"strconv"
)

type saleCard struct {
	Sale  sale
	Phase phase
	Stock stock
}

// salesPage reads a page of sales; the list has no live stock.
func (v *visit) salesPage() (cards []saleCard, next string, err error) {
	path := "/api/v1/sales?limit=20"
	if after := v.r.URL.Query().Get("page"); after != "" {
		path += "&page=" + url.QueryEscape(after)
	}
	got, err := fetch[struct {
		Sales []sale `json:"sales"`
		Next  string `json:"next"`
	}](v.r.Context(), v.c, v.r, call{method: http.MethodGet, path: path})
	now := v.c.cfg.Clock()
	for _, s := range got.Sales {
		cards = append(cards, saleCard{Sale: s, Phase: phaseOf(s.Status, s.OpensAt, s.EndsAt, now)})
	}
	return cards, cursor(got.Next, "page"), err
}

func (c *Console) showSales(v *visit) error {
	cards, next, err := v.salesPage()
	if err != nil {
		return err
	}
	return v.render(http.StatusOK, "sales", view{Title: "Sales", Section: "sales", D: struct {
		Cards []saleCard
		Next  string
	}{cards, next}})
}

type itemView struct {
	SKU         string
	Name        string
	Description string
	Product     string
	UnitPrice   money
	Stock       stock
	Buyable     bool
	Key         string // of the form, made once when it is rendered
	Max         int
}

type saleView struct {
	Sale       sale
	Phase      phase
	Items      []itemView
	Page       int
	Prev, Next int // 0 for none
}

// salePage reads a page of a sale's items with their products' names.
func (v *visit) salePage() (saleView, error) {
	s, err := v.sale(v.r.PathValue("id"))
	if err != nil {
		return saleView{}, err
	}
	out := saleView{Sale: s, Phase: phaseOf(s.Status, s.OpensAt, s.EndsAt, v.c.cfg.Clock())}
	page, part, more := pageOf(v.r, s.Items)
	out.Page, out.Prev = page, page-1
	if more {
		out.Next = page + 1
	}
	most := 1000
	if s.Limit > 0 {
		most = s.Limit
	}
	out.Items = make([]itemView, len(part))
	each(len(part), func(i int) {
		item := part[i]
		w := itemView{SKU: item.SKU, Name: item.SKU, Product: item.Product, UnitPrice: item.UnitPrice, Stock: stockOf(item), Key: rand.Text(), Max: most}
		w.Buyable = out.Phase.Name == "open" && !w.Stock.SoldOut()
		if p, err := v.product(item.Product); err == nil { // the sale can be bought from without its names
			w.Name, w.Description = p.Name, p.Description
		}
		out.Items[i] = w
	})
	return out, nil
}

func (s saleView) poll(self string) *poll {
	page := strconv.Itoa(s.Page)
	return &poll{URL: "/sales/" + s.Sale.ID + "/stock?page=" + page, Self: self + s.Sale.ID + "?page=" + page}
}

func (c *Console) showSale(v *visit) error {
	s, err := v.salePage()
	if err != nil {
		return err
	}
	return v.render(http.StatusOK, "sale", view{Title: s.Sale.Name, Section: "sales", Poll: s.poll("/sales/"), D: s})
}

type searchView struct {
	Q, Category, Min, Max string
	Products              []product
	Next                  string
}

func (c *Console) showProducts(v *visit) error {
	in := v.r.URL.Query()
	out := searchView{Q: in.Get("q"), Category: in.Get("category"), Min: in.Get("min"), Max: in.Get("max")}
	page := view{Title: "Products", Section: "products"}
	show := func(status int, n *notice) error {
		page.Notice, page.D = n, out
		return v.render(status, "products", page)
	}
	q := url.Values{"limit": {"20"}}
	for name, s := range map[string]string{"q": out.Q, "category": out.Category, "page": in.Get("page")} {
		if s != "" {
			q.Set(name, s)
		}
	}
	bounds := [2]int64{0, math.MaxInt64}
	for i, s := range []string{out.Min, out.Max} {
		if s == "" {
			continue
		}
		var err error
		if bounds[i], err = parseAmount(s, digits("")); err != nil {
			return show(http.StatusUnprocessableEntity, &notice{Title: "Not a price", Next: "Write prices such as 19.90, then search again."})
		}
		q.Set([]string{"min_price", "max_price"}[i], strconv.FormatInt(bounds[i], 10))
	}
	if bounds[0] > bounds[1] {
		return show(http.StatusUnprocessableEntity, &notice{Title: "No such range", Next: "Let the first price be the lower one, then search again."})
	}
	got, err := fetch[struct {
		Products []product `json:"products"`
		Next     string    `json:"next"`
	}](v.r.Context(), c, v.r, call{method: http.MethodGet, path: "/api/v1/products/search?" + q.Encode()})
	if p := refusal(err); p != nil && (p.Status == http.StatusBadRequest || p.Status == http.StatusUnprocessableEntity) {
		n := noticeOf(p)
		return show(p.Status, &n)
	}
	if err != nil {
		return err
	}
	out.Products = got.Products
	if after := cursor(got.Next, "page"); after != "" {
		next := url.Values{"page": {after}}
		for name, s := range map[string]string{"q": out.Q, "category": out.Category, "min": out.Min, "max": out.Max} {
			if s != "" {
				next.Set(name, s)
			}
		}
		out.Next = "/products?" + next.Encode()
	}
	return show(http.StatusOK, nil)
}

type offerView struct {
	offer
	Phase phase
}

func (c *Console) showProduct(v *visit) error {
	id, err := v.pathID()
	if err != nil {
		return err
	}
	p, err := fetch[product](v.r.Context(), c, v.r, call{method: http.MethodGet, path: "/api/v1/products/" + id})
	if err != nil {
		return err
	}
	out := struct {
		Product product
		Offers  []offerView
	}{Product: p}
	for _, o := range p.Offers {
		out.Offers = append(out.Offers, offerView{o, phaseOf(o.Status, o.OpensAt, o.EndsAt, c.cfg.Clock())})
	}
	return v.render(http.StatusOK, "product", view{Title: p.Name, Section: "products", D: out})
}
