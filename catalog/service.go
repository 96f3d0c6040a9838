package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/id"
	"flashsale/transport"
	"log/slog"
	"strconv"
	"time"

	"golang.org/x/sync/singleflight"
)

func number(n int) string { return strconv.Itoa(n) }

// Service is what shoppers and operators do with the catalogue. Reads go through the cache; a
// stampede on a key reads once.
type Service struct {
	products Products
	sales    Sales
	stock    Stock
	cache    Cache
	ttl      TTL
	clock    func() time.Time
	log      *slog.Logger
	flight   singleflight.Group
}

// TTL says how old what is read may be.
type TTL struct{ Product, List, Stock time.Duration }

// DefaultTTL is how old what is read may be, unless it is set otherwise.
func DefaultTTL() TTL {
	return TTL{Product: 30 * time.Second, List: 5 * time.Second, Stock: time.Second}
}

// NewService returns the service.
func NewService(products Products, sales Sales, stock Stock, cache Cache, ttl TTL, clock func() time.Time, log *slog.Logger) *Service {
	return &Service{products: products, sales: sales, stock: stock, cache: cache, ttl: ttl, clock: clock, log: log}
}

// Page is a page of products. Next is zero on the last one.
type Page struct {
	Products []Product
	Next     id.ID
}

// Offer is a product in a sale. Stock is nil when it cannot be had.
type Offer struct {
	Sale  Sale
	Item  SaleItem
	Stock *ItemStock
}

// Details is a product with the sales it is in.
type Details struct {
	Product Product
	Offers  []Offer
}

// SaleView is a sale with its live status, and its live stock by SKU: nil when it cannot be had.
type SaleView struct {
	Sale  Sale
	Stock map[string]ItemStock
}

// cached reads through the cache. hit says whether the answer came from it.
func cached[T any](ctx context.Context, s *Service, key string, ttl time.Duration, read func(context.Context) (T, error)) (v T, hit bool, err error) {
	b, ok, cerr := s.cache.Get(ctx, key)
	if cerr != nil {
		s.log.DebugContext(ctx, "cache cannot be read", "key", key, "error", cerr)
	}
	if ok && cerr == nil && json.Unmarshal(b, &v) == nil {
		return v, true, nil
	}
	// Those who wait share the read, so it does not end with the first of them.
	shared, err, _ := s.flight.Do(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		v, err := read(ctx)
		if err != nil {
			return v, err
		}
		if b, err := json.Marshal(v); err == nil {
			if err := s.cache.Set(ctx, key, b, ttl); err != nil {
				s.log.DebugContext(ctx, "cache cannot be written", "key", key, "error", err)
			}
		}
		return v, nil
	})
	if err != nil {
		var none T
		return none, false, err
	}
	return shared.(T), false, nil
}

// Search returns a page of products. ErrInvalid for a filter out of bounds.
func (s *Service) Search(ctx context.Context, f Filter) (Page, bool, error) {
	if f.Limit == 0 {
		f.Limit = DefaultPage
	}
	switch {
	case f.Limit < 1 || f.Limit > MaxPage:
		return Page{}, false, invalid("limit", "is 1 to 100")
	case f.MinPrice < 0 || f.MaxPrice < 0 || f.MaxPrice > 0 && f.MinPrice > f.MaxPrice:
		return Page{}, false, invalid("min_price and max_price", "are 0 or more, the first not above the second")
	case len(f.Words) > 10:
		return Page{}, false, invalid("q", "has at most 10 words")
	}
	if err := validText("category", f.Category, 0, 64); err != nil {
		return Page{}, false, err
	}
	key, err := json.Marshal(f)
	if err != nil {
		return Page{}, false, err
	}
	return cached(ctx, s, "list:"+string(key), s.ttl.List, func(ctx context.Context) (Page, error) {
		more := f
		more.Limit++ // one more than asked tells whether there is a next page
		ps, err := s.products.List(ctx, more)
		page := Page{Products: ps}
		if len(ps) > f.Limit {
			page.Products = ps[:f.Limit]
			page.Next = page.Products[f.Limit-1].ID
		}
		return page, err
	})
}

// Product returns a product with the sales it is in and their live stock. ErrNotFound.
func (s *Service) Product(ctx context.Context, product id.ID) (Details, bool, error) {
	type known struct {
		Product Product
		Sales   []Sale
	}
	k, hit, err := cached(ctx, s, "product:"+product.String(), min(s.ttl.Product, s.ttl.List), func(ctx context.Context) (known, error) {
		p, err := s.products.Product(ctx, product)
		if err != nil {
			return known{}, err
		}
		sales, err := s.products.SalesOf(ctx, product)
		return known{p, sales}, err
	})
	if err != nil {
		return Details{}, false, err
	}
	d := Details{Product: k.Product}
	for _, sale := range k.Sales {
		live, liveHit := s.live(ctx, sale.ID)
		hit = hit && liveHit
		sale.Status = live.statusOr(sale.Status)
		for _, item := range sale.Items {
			if item.Product != product {
				continue
			}
			o := Offer{Sale: sale, Item: item}
			if v, ok := live.stock[item.SKU]; ok {
				o.Stock = &v
			}
			d.Offers = append(d.Offers, o)
		}
	}
	return d, hit, nil
}

// Sale returns a sale with its live stock. ErrNotFound.
func (s *Service) Sale(ctx context.Context, sale id.ID) (SaleView, bool, error) {
	v, hit, err := cached(ctx, s, saleKey(sale), s.ttl.Stock, func(ctx context.Context) (Sale, error) { return s.sales.Sale(ctx, sale) })
	if err != nil {
		return SaleView{}, false, err
	}
	live, liveHit := s.live(ctx, sale)
	v.Status = live.statusOr(v.Status)
	return SaleView{Sale: v, Stock: live.stock}, hit && liveHit, nil
}

// Sales returns sales, the newest first.
func (s *Service) Sales(ctx context.Context, before id.ID, limit int) ([]Sale, bool, error) {
	if limit == 0 {
		limit = DefaultPage
	}
	if limit < 1 || limit > MaxPage {
		return nil, false, invalid("limit", "is 1 to 100")
	}
	return cached(ctx, s, "sales:"+before.String()+":"+number(limit), s.ttl.Stock, func(ctx context.Context) ([]Sale, error) {
		return s.sales.Sales(ctx, before, limit)
	})
}

func saleKey(sale id.ID) string { return "sale:" + sale.String() }

// liveSale is what could be had of a sale's live state.
type liveSale struct {
	status Status
	stock  map[string]ItemStock
}

// statusOr prefers the live status.
func (l liveSale) statusOr(stored Status) Status {
	if l.status != "" {
		return l.status
	}
	return stored
}

// live never fails: what cannot be had is left out.
func (s *Service) live(ctx context.Context, sale id.ID) (liveSale, bool) {
	v, hit, err := cached(ctx, s, "stock:"+sale.String(), s.ttl.Stock, func(ctx context.Context) (Live, error) { return s.stock.SaleStock(ctx, sale) })
	if err != nil {
		s.log.WarnContext(ctx, "live stock cannot be had; the answer goes without", "sale", sale, "error", err)
		return liveSale{}, false
	}
	l := liveSale{status: v.Status, stock: make(map[string]ItemStock, len(v.Items))}
	for _, i := range v.Items {
		l.stock[i.SKU] = i
	}
	return l, hit
}

// CreateProduct stores a new product. ErrInvalid, ErrSKUTaken.
func (s *Service) CreateProduct(ctx context.Context, p Product) (Product, error) {
	if err := p.Validate(); err != nil {
		return p, err
	}
	now := s.clock().UTC().Truncate(time.Microsecond)
	p.ID, p.CreatedAt = id.New(now), now
	return p, s.products.CreateProduct(ctx, p)
}

// CreateSale stores a new sale and returns it with the event to send. ErrInvalid, ErrUnknownSKU.
func (s *Service) CreateSale(ctx context.Context, v Sale) (Sale, transport.Envelope, error) {
	if err := v.Validate(); err != nil {
		return v, transport.Envelope{}, err
	}
	now := s.clock().UTC().Truncate(time.Microsecond)
	v.ID, v.CreatedAt, v.Status, v.Revision = id.New(now), now, Scheduled, 1
	v.OpensAt, v.EndsAt = v.OpensAt.UTC().Truncate(time.Microsecond), v.EndsAt.UTC().Truncate(time.Microsecond)
	return s.sales.CreateSale(ctx, v)
}

// SetStatus opens, pauses or ends a sale and returns it with the event to send. A sale that is in
// that status already is returned without one. ErrNotFound, ErrIllegalMove.
func (s *Service) SetStatus(ctx context.Context, sale id.ID, to Status) (Sale, transport.Envelope, error) {
	v, e, err := s.sales.SetStatus(ctx, sale, to)
	if errors.Is(err, ErrIllegalMove) && v.Status == to {
		return v, transport.Envelope{}, nil
	}
	s.forget(ctx, sale)
	return v, e, err
}

// AddStock adds units to an item of a sale, once per shopper's key, and returns the sale with the
// event to send. ErrInvalid, ErrNotFound, ErrEnded.
func (s *Service) AddStock(ctx context.Context, sale id.ID, sku string, addition id.ID, units int64) (Sale, transport.Envelope, error) {
	if units < 1 || units > MaxStock {
		return Sale{}, transport.Envelope{}, invalid("quantity", "is 1 to 10000000")
	}
	v, e, err := s.sales.AddStock(ctx, sale, sku, addition, units)
	s.forget(ctx, sale)
	return v, e, err
}

func (s *Service) forget(ctx context.Context, sale id.ID) {
	if err := s.cache.Delete(ctx, saleKey(sale), "stock:"+sale.String()); err != nil {
		s.log.WarnContext(ctx, "cache cannot be cleared; it is stale for a moment", "sale", sale, "error", err)
	}
}
