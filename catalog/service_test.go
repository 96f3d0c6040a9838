package catalog_test

import (
	"context"
	"errors"
	"flashsale/catalog"
	"flashsale/catalog/memcache"
	"flashsale/catalog/rediscache"
	"flashsale/catalog/sqlitecatalog"
	"flashsale/id"
	"flashsale/testenv"
	"flashsale/testenv/databases"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// shelf is live stock: by sale, or an error while it cannot be had.
type shelf struct {
	mu    sync.Mutex
	items map[id.ID][]catalog.ItemStock
	away  error
	says  catalog.Status // live, if anything
}

func (s *shelf) SaleStock(_ context.Context, sale id.ID) (catalog.Live, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return catalog.Live{Status: s.says, Items: slices.Clone(s.items[sale])}, s.away
}

func (s *shelf) set(sale id.ID, available int64, away error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items[sale] = []catalog.ItemStock{{SKU: "CHAIR-1", Total: 5, Available: available, Held: 5 - available}}
	s.away = away
}

// shop is a service on a SQLite file, with a product in an open sale.
type shop struct {
	*catalog.Service
	store   *sqlitecatalog.Store
	shelf   *shelf
	ahead   atomic.Int64 // of the cache's clock
	product catalog.Product
	sale    catalog.Sale
}

// open opens a shop; with no cache given it has one in memory, on the shop's clock.
func open(t *testing.T, cache catalog.Cache) *shop {
	t.Helper()
	db := databases.SQLite(t, sqlitecatalog.Migrations)
	s := &shop{store: sqlitecatalog.New(db, time.Now), shelf: &shelf{items: map[id.ID][]catalog.ItemStock{}}}
	start := time.Now()
	if cache == nil {
		cache = memcache.New(100, func() time.Time { return start.Add(time.Duration(s.ahead.Load())) })
	}
	s.Service = catalog.NewService(s.store, s.store, s.shelf, cache, catalog.DefaultTTL(), time.Now, slog.New(slog.DiscardHandler))
	var err error
	s.product, err = s.CreateProduct(t.Context(), chair())
	must(t, err)
	draft := friday()
	draft.OpensAt, draft.EndsAt = start.Add(-time.Hour), start.Add(time.Hour)
	v, _, err := s.CreateSale(t.Context(), draft)
	must(t, err)
	s.sale, _, err = s.SetStatus(t.Context(), v.ID, catalog.Open)
	must(t, err)
	s.shelf.set(v.ID, 3, nil)
	return s
}

// reading is a way to read, and how long what it reads may be remembered.
type reading struct {
	ttl  time.Duration
	read func() (any, bool, error)
}

func (s *shop) reads(ctx context.Context) map[string]reading {
	ttl := catalog.DefaultTTL()
	return map[string]reading{
		"search": {ttl.List, func() (any, bool, error) {
			v, hit, err := s.Search(ctx, catalog.Filter{Words: []string{"chair"}})
			return v, hit, err
		}},
		"search for nothing": {ttl.List, func() (any, bool, error) {
			v, hit, err := s.Search(ctx, catalog.Filter{Category: "none"})
			return v, hit, err
		}},
		"product": {ttl.Stock, func() (any, bool, error) {
			v, hit, err := s.Product(ctx, s.product.ID)
			return v, hit, err
		}},
		"sale": {ttl.Stock, func() (any, bool, error) {
			v, hit, err := s.Sale(ctx, s.sale.ID)
			return v, hit, err
		}},
		"sales": {ttl.Stock, func() (any, bool, error) {
			v, hit, err := s.Sales(ctx, id.ID{}, 0)
			return v, hit, err
		}},
	}
}

func TestReadsAreRemembered(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	for what, r := range s.reads(t.Context()) {
		want, hit, err := r.read()
		if err != nil || hit {
			t.Fatalf("%s, first: hit %v, %v", what, hit, err)
		}
		for _, c := range []struct {
			after time.Duration
			hit   bool
		}{{0, true}, {r.ttl - 1, true}, {1, false}, {0, true}} {
			s.ahead.Add(int64(c.after))
			got, hit, err := r.read()
			if err != nil || hit != c.hit {
				t.Errorf("%s after %s more: hit %v, %v", what, c.after, hit, err)
			}
			if !reflect.DeepEqual(got, want) { // an answer does not show where it is from
				t.Errorf("%s after %s more: is %+v\nwant %+v", what, c.after, got, want)
			}
		}
	}
}

func TestWhatIsReadIsWhatThereIs(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	stock := catalog.ItemStock{SKU: "CHAIR-1", Total: 5, Available: 3, Held: 2}
	for range 2 { // read, and remembered
		d, _, err := s.Product(t.Context(), s.product.ID)
		must(t, err)
		if d.Product != s.product || len(d.Offers) != 1 || !reflect.DeepEqual(d.Offers[0].Sale, s.sale) || d.Offers[0].Item != s.sale.Items[0] || *d.Offers[0].Stock != stock {
			t.Fatalf("details %+v", d)
		}
		v, _, err := s.Sale(t.Context(), s.sale.ID)
		must(t, err)
		if !reflect.DeepEqual(v, catalog.SaleView{Sale: s.sale, Stock: map[string]catalog.ItemStock{"CHAIR-1": stock}}) {
			t.Fatalf("view %+v", v)
		}
		all, _, err := s.Sales(t.Context(), id.ID{}, 0)
		if err != nil || !reflect.DeepEqual(all, []catalog.Sale{s.sale}) {
			t.Fatalf("sales %+v, %v", all, err)
		}
		older, _, err := s.Sales(t.Context(), s.sale.ID, 1)
		if err != nil || older == nil || len(older) != 0 {
			t.Fatalf("older sales %#v, %v", older, err)
		}
	}
	none := id.Derive("none")
	for range 2 { // that something is not there is not remembered
		_, hit, err := s.Product(t.Context(), none)
		if !errors.Is(err, catalog.ErrNotFound) || hit {
			t.Fatalf("product: %v, %v", hit, err)
		}
		_, hit, err = s.Sale(t.Context(), none)
		if !errors.Is(err, catalog.ErrNotFound) || hit {
			t.Fatalf("sale: %v, %v", hit, err)
		}
	}
}

func TestWritesAreSeenAtOnce(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	seen := func(wantHit bool, status catalog.Status, stock, available int64) {
		t.Helper()
		v, hit, err := s.Sale(t.Context(), s.sale.ID)
		must(t, err)
		if hit != wantHit || v.Sale.Status != status || v.Sale.Items[0].Stock != stock || v.Stock["CHAIR-1"].Available != available {
			t.Fatalf("hit %v, %+v", hit, v)
		}
	}
	seen(false, catalog.Open, 5, 3)
	s.shelf.set(s.sale.ID, 2, nil)
	seen(true, catalog.Open, 5, 3)
	_, _, err := s.SetStatus(t.Context(), s.sale.ID, catalog.Paused)
	must(t, err)
	seen(false, catalog.Paused, 5, 2)
	seen(true, catalog.Paused, 5, 2)
	s.shelf.set(s.sale.ID, 9, nil)
	_, _, err = s.AddStock(t.Context(), s.sale.ID, "CHAIR-1", id.Derive("addition"), 7)
	must(t, err)
	seen(false, catalog.Paused, 12, 9)
}

// TestLiveStatus: what the ledger enforces is what is shown, not what was announced to it.
func TestLiveStatus(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	s.shelf.says = catalog.Scheduled
	v, _, err := s.Sale(t.Context(), s.sale.ID)
	must(t, err)
	d, _, err := s.Product(t.Context(), s.product.ID)
	must(t, err)
	if s.sale.Status != catalog.Open || v.Sale.Status != catalog.Scheduled || d.Offers[0].Sale.Status != catalog.Scheduled {
		t.Fatalf("stored %s, shown %s and %s", s.sale.Status, v.Sale.Status, d.Offers[0].Sale.Status)
	}
}

func TestSetStatus(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	v, e, err := s.SetStatus(t.Context(), s.sale.ID, catalog.Open) // it is open: done, and nothing to say
	if err != nil || e.Type != "" || !reflect.DeepEqual(v, s.sale) {
		t.Fatalf("%+v, event %q, %v", v, e.Type, err)
	}
	v, e, err = s.SetStatus(t.Context(), s.sale.ID, catalog.Ended)
	if err != nil || e.ID != catalog.StatusEvent(v, e.Time).ID || v.Status != catalog.Ended || v.Revision != 3 {
		t.Fatalf("%+v, event %+v, %v", v, e, err)
	}
	_, e, err = s.SetStatus(t.Context(), s.sale.ID, catalog.Open)
	if !errors.Is(err, catalog.ErrIllegalMove) || e.Type != "" {
		t.Fatalf("event %q, %v", e.Type, err)
	}
	_, _, err = s.SetStatus(t.Context(), id.Derive("none"), catalog.Open)
	wantErr(t, err, catalog.ErrNotFound)
}

func TestStockThatCannotBeHad(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	s.shelf.set(s.sale.ID, 3, errors.New("the ledger is away"))
	for range 2 { // a failure is not remembered as an answer
		v, hit, err := s.Sale(t.Context(), s.sale.ID)
		if err != nil || hit || v.Stock != nil || !reflect.DeepEqual(v.Sale, s.sale) {
			t.Fatalf("sale %+v, hit %v, %v", v, hit, err)
		}
		d, hit, err := s.Product(t.Context(), s.product.ID)
		if err != nil || hit || len(d.Offers) != 1 || d.Offers[0].Stock != nil {
			t.Fatalf("details %+v, hit %v, %v", d, hit, err)
		}
	}
	s.shelf.set(s.sale.ID, 1, nil)
	d, _, err := s.Product(t.Context(), s.product.ID)
	if err != nil || d.Offers[0].Stock == nil || d.Offers[0].Stock.Available != 1 {
		t.Fatalf("details %+v, %v", d, err)
	}
}

// TestBrokenCache: without its cache the catalogue is slower, and nothing else.
func TestBrokenCache(t *testing.T) {
	t.Parallel()
	r := testenv.StartRedis(t)
	cache, err := rediscache.Open(r.URL(), "catalog:")
	must(t, err)
	t.Cleanup(func() { _ = cache.Close() })
	r.Kill()
	s := open(t, cache) // creates and opens: writes go on
	for what, read := range s.reads(t.Context()) {
		first, hit, err := read.read()
		if err != nil || hit {
			t.Fatalf("%s: hit %v, %v", what, hit, err)
		}
		again, hit, err := read.read()
		if err != nil || hit || !reflect.DeepEqual(first, again) {
			t.Fatalf("%s again: hit %v, %v, %+v\nwas %+v", what, hit, err, again, first)
		}
	}
	v, _, err := s.AddStock(t.Context(), s.sale.ID, "CHAIR-1", id.Derive("addition"), 2)
	if err != nil || v.Items[0].Stock != 7 {
		t.Fatalf("%+v, %v", v, err)
	}
}

// TestOddCache: what is in the cache but cannot be decoded is a miss, and is mended.
func TestOddCache(t *testing.T) {
	t.Parallel()
	cache := memcache.New(10, time.Now)
	s := open(t, cache)
	must(t, cache.Set(t.Context(), "sale:"+s.sale.ID.String(), []byte(`{"Name":"Other","Revision":"x"}`), time.Hour))
	for n, want := range []bool{false, true} {
		v, hit, err := s.Sale(t.Context(), s.sale.ID)
		if err != nil || hit != want || !reflect.DeepEqual(v.Sale, s.sale) {
			t.Fatalf("read %d: %+v, hit %v, %v", n, v, hit, err)
		}
	}
}

func TestSearchPages(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	want := []string{"CHAIR-1"}
	for _, sku := range []string{"a", "b", "c", "d"} {
		p := chair()
		p.SKU = sku
		p, err := s.CreateProduct(t.Context(), p)
		must(t, err)
		want = append(want, p.SKU)
	}
	slices.Sort(want)
	var got []string
	f := catalog.Filter{Limit: 2}
	for _, n := range []int{2, 2, 1} {
		page, _, err := s.Search(t.Context(), f)
		must(t, err)
		if len(page.Products) != n || page.Next.IsZero() != (n == 1) {
			t.Fatalf("a page of %d, next %s", len(page.Products), page.Next)
		}
		for _, p := range page.Products {
			got = append(got, p.SKU)
		}
		f.After = page.Next
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
	if page, _, err := s.Search(t.Context(), catalog.Filter{Limit: 5}); err != nil || len(page.Products) != 5 || !page.Next.IsZero() {
		t.Fatalf("a page that is just full: %+v, %v", page, err)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	eleven := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"}
	for what, c := range map[string]struct {
		f     catalog.Filter
		field string
	}{
		"as it comes":     {catalog.Filter{}, ""},
		"the most":        {catalog.Filter{Limit: catalog.MaxPage, Words: eleven[:10]}, ""},
		"more":            {catalog.Filter{Limit: catalog.MaxPage + 1}, "limit"},
		"less than none":  {catalog.Filter{Limit: -1}, "limit"},
		"too many words":  {catalog.Filter{Words: eleven}, "q"},
		"a price below 0": {catalog.Filter{MinPrice: -1}, "min_price and max_price"},
		"a most below 0":  {catalog.Filter{MaxPrice: -1}, "min_price and max_price"},
		"crossed prices":  {catalog.Filter{MinPrice: 2, MaxPrice: 1}, "min_price and max_price"},
		"equal prices":    {catalog.Filter{MinPrice: 2, MaxPrice: 2}, ""},
		"a NUL":           {catalog.Filter{Category: "a\x00"}, "category"},
	} {
		_, _, err := s.Search(t.Context(), c.f)
		wantField(t, what, err, c.field)
	}
	for limit, field := range map[int]string{-1: "limit", 0: "", 1: "", catalog.MaxPage: "", catalog.MaxPage + 1: "limit"} {
		_, _, err := s.Sales(t.Context(), id.ID{}, limit)
		wantField(t, "sales", err, field)
	}
	for units, field := range map[int64]string{-1: "quantity", 0: "quantity", 1: "", catalog.MaxStock: "", catalog.MaxStock + 1: "quantity"} {
		_, _, err := s.AddStock(t.Context(), s.sale.ID, "CHAIR-1", id.New(time.Now()), units)
		wantField(t, "add stock", err, field)
	}
	_, err := s.CreateProduct(t.Context(), catalog.Product{})
	wantField(t, "product", err, "sku")
	_, err = s.CreateProduct(t.Context(), chair())
	wantErr(t, err, catalog.ErrSKUTaken)
	_, _, err = s.CreateSale(t.Context(), catalog.Sale{})
	wantField(t, "sale", err, "name")
	_, _, err = s.CreateSale(t.Context(), friday(catalog.SaleItem{SKU: "none", UnitPrice: eur(1), Stock: 1}))
	wantErr(t, err, catalog.ErrUnknownSKU)
}

// slow is a catalogue of one product whose reads wait to be let go.
type slow struct {
	catalog.Products
	reads atomic.Int64
	letGo chan struct{}
}

func (s *slow) Product(ctx context.Context, product id.ID) (catalog.Product, error) {
	s.reads.Add(1)
	select {
	case <-s.letGo:
		return catalog.Product{ID: product, Name: "Chair"}, nil
	case <-ctx.Done():
		return catalog.Product{}, ctx.Err()
	}
}

func (s *slow) SalesOf(context.Context, id.ID) ([]catalog.Sale, error) { return []catalog.Sale{}, nil }

func TestStampede(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &slow{letGo: make(chan struct{})}
		s := catalog.NewService(store, nil, nil, memcache.New(10, time.Now), catalog.DefaultTTL(), time.Now, slog.New(slog.DiscardHandler))
		product := id.Derive("chair")
		first, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for n := range 20 {
			ctx := t.Context()
			if n == 0 {
				ctx = first
			}
			wg.Go(func() {
				if d, hit, err := s.Product(ctx, product); err != nil || hit || d.Product.Name != "Chair" {
					t.Errorf("%+v, hit %v, %v", d, hit, err)
				}
			})
			synctest.Wait() // the first is reading, the others wait for it
		}
		leave() // who came first leaves, and takes nobody's answer along
		synctest.Wait()
		close(store.letGo)
		wg.Wait()
		if _, hit, err := s.Product(t.Context(), product); err != nil || !hit || store.reads.Load() != 1 {
			t.Fatalf("hit %v, %v, %d reads", hit, err, store.reads.Load())
		}
	})
}

func TestAReadHasAnEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := catalog.NewService(&slow{}, nil, nil, memcache.New(10, time.Now), catalog.DefaultTTL(), time.Now, slog.New(slog.DiscardHandler))
		_, hit, err := s.Product(t.Context(), id.Derive("chair")) // nobody lets it go
		if hit || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("hit %v, %v", hit, err)
		}
	})
}
