// Package catalogtest holds the suites that every store and every cache of the catalogue passes.
package catalogtest

import (
	"errors"
	"flashsale/catalog"
	"flashsale/id"
	"flashsale/money"
	"flashsale/transport"
	"flashsale/transport/transporttest"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Store is what the suite exercises.
type Store interface {
	catalog.Products
	catalog.Sales
	transport.Outbox
}

// ExerciseStore runs the suite; open returns an empty store.
func ExerciseStore(t *testing.T, open func(t *testing.T) Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *shop){
		"a product is kept":                   storeProduct,
		"pages of products":                   storePages,
		"prices, inclusive":                   storePrices,
		"categories, to the letter":           storeCategories,
		"words":                               storeWords,
		"everything a filter has":             storeFilter,
		"a sale is kept":                      storeSale,
		"a sale of a SKU that is no product":  storeUnknownSKU,
		"every status from every status":      storeStatus,
		"stock is added once":                 storeAddStock,
		"sales, the newest first":             storeSales,
		"the sales of a product":              storeSalesOf,
		"the outbox has what was said":        storeOutbox,
		"a crowd of operators is in one line": storeCrowd,
		"what is not there":                   storeNothing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &shop{Store: open(t), t: t})
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

func wantSame(t testing.TB, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("is   %+v\nwant %+v", got, want)
	}
}

// shop is a store, and words for what the suite does to it.
type shop struct {
	Store
	t *testing.T
	n int
}

var epoch0 = time.Date(2026, 11, 21, 10, 0, 0, 123456000, time.UTC)

func eur(amount int64) money.Money { return money.Money{Amount: amount, Currency: "EUR"} }

// product stores a product that was made a second after the one before.
func (s *shop) product(p catalog.Product) catalog.Product {
	s.t.Helper()
	s.n++
	p.CreatedAt = epoch0.Add(time.Duration(s.n) * time.Second)
	p.ID = id.New(p.CreatedAt)
	if p.SKU == "" {
		p.SKU = fmt.Sprintf("sku-%d", s.n)
	}
	if p.Price.Currency == "" {
		p.Price.Currency = "EUR"
	}
	must(s.t, s.CreateProduct(s.t.Context(), p))
	return p
}

// draft is a scheduled sale that was made a second after the one before, of items named by SKU.
func (s *shop) draft(items ...catalog.SaleItem) catalog.Sale {
	s.n++
	at := epoch0.Add(time.Duration(s.n) * time.Second)
	return catalog.Sale{
		ID: id.New(at), Name: fmt.Sprintf("Sale %d", s.n), Status: catalog.Scheduled, OpensAt: at, EndsAt: time.Now().UTC().Add(time.Hour).Truncate(time.Microsecond),
		PerUserLimit: 2, HoldFor: 90*time.Second + time.Microsecond, Revision: 1, CreatedAt: at, Items: items,
	}
}

func (s *shop) sale(v catalog.Sale) catalog.Sale {
	s.t.Helper()
	v, _, err := s.CreateSale(s.t.Context(), v)
	must(s.t, err)
	return v
}

func (s *shop) find(sale id.ID) catalog.Sale {
	s.t.Helper()
	v, err := s.Sale(s.t.Context(), sale)
	must(s.t, err)
	return v
}

func (s *shop) status(sale id.ID, to ...catalog.Status) catalog.Sale {
	s.t.Helper()
	for _, status := range to {
		_, _, err := s.SetStatus(s.t.Context(), sale, status)
		must(s.t, err)
	}
	return s.find(sale)
}

// names lists the products that a filter finds; an empty list is not nil.
func (s *shop) names(f catalog.Filter) []string {
	s.t.Helper()
	if f.Limit == 0 {
		f.Limit = 100
	}
	ps, err := s.List(s.t.Context(), f)
	must(s.t, err)
	if ps == nil {
		s.t.Fatalf("the list of %+v is nil", f)
	}
	out := []string{}
	for _, p := range ps {
		out = append(out, p.Name)
	}
	return out
}

func storeProduct(t *testing.T, s *shop) {
	east := time.FixedZone("east", 5*3600)
	p := catalog.Product{
		ID: id.Derive("p"), SKU: "Chair_1", Name: "Stühle, 椅子 🪑", Description: "line one\nline two\t'quoted' \\", Category: "Möbel & more",
		Price: money.Money{Amount: math.MaxInt64, Currency: "JPY"}, CreatedAt: epoch0.Add(789 * time.Nanosecond).In(east),
	}
	must(t, s.CreateProduct(t.Context(), p))
	p.CreatedAt = epoch0 // microseconds, UTC
	got, err := s.Product(t.Context(), p.ID)
	must(t, err)
	wantSame(t, got, p)

	other := p
	other.ID, other.Name = id.Derive("other"), "Another"
	wantErr(t, s.CreateProduct(t.Context(), other), catalog.ErrSKUTaken)
	_, err = s.Product(t.Context(), other.ID)
	wantErr(t, err, catalog.ErrNotFound)
	got, err = s.Product(t.Context(), p.ID)
	must(t, err)
	wantSame(t, got, p)
	other.SKU = "chair_1" // a SKU is taken to the letter
	must(t, s.CreateProduct(t.Context(), other))
}

func storePages(t *testing.T, s *shop) {
	var all []catalog.Product
	for range 7 {
		all = append(all, s.product(catalog.Product{Name: "N"}))
	}
	var after id.ID
	for _, want := range [][]catalog.Product{all[:3], all[3:6], all[6:], {}} {
		got, err := s.List(t.Context(), catalog.Filter{After: after, Limit: 3})
		must(t, err)
		wantSame(t, got, want)
		if len(got) > 0 {
			after = got[len(got)-1].ID
		}
	}
}

func storePrices(t *testing.T, s *shop) {
	const million = 1_000_000_000_000 // in minor units far beyond 32 bits
	for name, amount := range map[string]int64{"free": 0, "cheap": 100, "dear": 101, "house": million} {
		s.product(catalog.Product{Name: name, Price: eur(amount)})
	}
	for _, c := range []struct {
		low, high int64
		want      []string
	}{
		{0, 0, []string{"cheap", "dear", "free", "house"}},
		{1, 0, []string{"cheap", "dear", "house"}},
		{0, 1, []string{"free"}},
		{100, 100, []string{"cheap"}},
		{100, 101, []string{"cheap", "dear"}},
		{101, million, []string{"dear", "house"}},
		{101, million - 1, []string{"dear"}},
		{million + 1, 0, []string{}},
		{102, 200, []string{}},
	} {
		got := s.names(catalog.Filter{MinPrice: c.low, MaxPrice: c.high})
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("from %d to %d: %v, want %v", c.low, c.high, got, c.want)
		}
	}
}

func storeCategories(t *testing.T, s *shop) {
	for _, c := range []string{"Toys", "toys", "Toy", "100%", "100x", "Möbel"} {
		s.product(catalog.Product{Name: c, Category: c})
	}
	for ask, want := range map[string][]string{
		"Toys": {"Toys"}, "toys": {"toys"}, "Toy": {"Toy"}, "Toy_": {}, "%": {}, "100%": {"100%"}, "Möbel": {"Möbel"}, "möbel": {}, "' OR ''='": {},
	} {
		if got := s.names(catalog.Filter{Category: ask}); !slices.Equal(got, want) {
			t.Errorf("category %q: %v, want %v", ask, got, want)
		}
	}
}

func storeWords(t *testing.T, s *shop) {
	s.product(catalog.Product{Name: "Red Armchair", Description: "soft & 100% wool", Category: "Furniture", SKU: "ARM-77"})
	s.product(catalog.Product{Name: "RED car", Description: "with 1000 parts", Category: "Toys"})
	s.product(catalog.Product{Name: "Crème brûlée", Description: "ÜBER-süß", Category: "Dessert"})
	s.product(catalog.Product{Name: "Смартфон ΑΒΓ 携帯電話", Category: "Phones"})
	for q, want := range map[string][]string{
		"":                   {"Red Armchair", "RED car", "Crème brûlée", "Смартфон ΑΒΓ 携帯電話"},
		"red":                {"Red Armchair", "RED car"},
		"rEd CaR":            {"RED car"},
		"car red":            {"RED car"}, // in any order
		"chair":              {},          // a prefix of a word, not a part
		"arm":                {"Red Armchair"},
		"arm-77":             {"Red Armchair"},
		"soft furniture":     {"Red Armchair"},
		"red dessert":        {}, // every word
		"100%":               {"Red Armchair", "RED car"},
		"r_d":                {},
		`re\d`:               {},
		"ÜBER":               {"Crème brûlée"},
		"über":               {"Crème brûlée"},
		"creme":              {},
		"CRÈM":               {"Crème brûlée"},
		"Cre\u0300me":        {"Crème brûlée"}, // the accent as a character of its own
		"смарт":              {"Смартфон ΑΒΓ 携帯電話"},
		"αβ 携帯":              {"Смартфон ΑΒΓ 携帯電話"},
		"red'; DROP TABLE x": {},
	} {
		if got := s.names(catalog.Filter{Words: catalog.Words(q)}); !slices.Equal(got, want) {
			t.Errorf("words of %q: %v, want %v", q, got, want)
		}
	}
	// A store takes words as they are, whoever made them.
	for _, w := range []string{"%", "_ed", "r%", `\`, "RED"} {
		if got := s.names(catalog.Filter{Words: []string{w}}); len(got) != 0 {
			t.Errorf("the word %q: %v", w, got)
		}
	}
}

func storeFilter(t *testing.T, s *shop) {
	var want []catalog.Product
	for n := range 12 {
		p := catalog.Product{Name: "Lamp", Category: "Light", Price: eur(int64(n))}
		switch n % 4 {
		case 1:
			p.Name = "Bulb"
		case 2:
			p.Category = "Dark"
		}
		if p = s.product(p); (n%4 == 0 || n%4 == 3) && n >= 3 && n <= 8 {
			want = append(want, p) // 3, 4, 7, 8
		}
	}
	f := catalog.Filter{Words: []string{"lamp"}, Category: "Light", MinPrice: 3, MaxPrice: 8, Limit: 3}
	got, err := s.List(t.Context(), f)
	must(t, err)
	wantSame(t, got, want[:3])
	f.After = got[2].ID
	got, err = s.List(t.Context(), f)
	must(t, err)
	wantSame(t, got, want[3:])
}

func storeSale(t *testing.T, s *shop) {
	b, a := s.product(catalog.Product{SKU: "b"}), s.product(catalog.Product{SKU: "a"})
	upper := s.product(catalog.Product{SKU: "Z"})
	v := s.draft(
		catalog.SaleItem{SKU: "b", UnitPrice: eur(5), Stock: 7},
		catalog.SaleItem{SKU: "a", UnitPrice: money.Money{Amount: 1 << 40, Currency: "JPY"}, Stock: 1},
		catalog.SaleItem{SKU: "Z", UnitPrice: eur(0), Stock: catalog.MaxStock},
	)
	given := v
	given.OpensAt = v.OpensAt.Add(999 * time.Nanosecond).In(time.FixedZone("west", -3600))
	want := v
	want.Items = []catalog.SaleItem{
		{SKU: "Z", Product: upper.ID, UnitPrice: eur(0), Stock: catalog.MaxStock},
		{SKU: "a", Product: a.ID, UnitPrice: money.Money{Amount: 1 << 40, Currency: "JPY"}, Stock: 1},
		{SKU: "b", Product: b.ID, UnitPrice: eur(5), Stock: 7},
	}
	got, e, err := s.CreateSale(t.Context(), given)
	must(t, err)
	wantSame(t, got, want)
	wantSame(t, s.find(v.ID), want)
	wantSame(t, e, catalog.ScheduledEvent(want))

	// Again, under another name and after it was opened: it is there as it is, and says nothing more.
	want = s.status(v.ID, catalog.Open)
	given.Name = "Another"
	got, e, err = s.CreateSale(t.Context(), given)
	must(t, err)
	wantSame(t, got, want)
	if e.ID != catalog.ScheduledEvent(want).ID {
		t.Fatalf("event %+v", e)
	}
	if n, _, err := s.Backlog(t.Context()); err != nil || n != 2 {
		t.Fatalf("backlog %d, %v", n, err)
	}
}

func storeUnknownSKU(t *testing.T, s *shop) {
	s.product(catalog.Product{SKU: "A"})
	v := s.draft(catalog.SaleItem{SKU: "A", UnitPrice: eur(1), Stock: 1}, catalog.SaleItem{SKU: "a", UnitPrice: eur(1), Stock: 1})
	_, _, err := s.CreateSale(t.Context(), v)
	wantErr(t, err, catalog.ErrUnknownSKU)
	_, err = s.Sale(t.Context(), v.ID)
	wantErr(t, err, catalog.ErrNotFound)
	if n, _, err := s.Backlog(t.Context()); err != nil || n != 0 {
		t.Fatalf("a sale that is not there was said: %d, %v", n, err)
	}
	s.product(catalog.Product{SKU: "a"})
	s.sale(v)
}

// storeStatus tries every status on a sale in every status, and holds it against the table.
func storeStatus(t *testing.T, s *shop) {
	s.product(catalog.Product{SKU: "A"})
	paths := map[catalog.Status][]catalog.Status{
		catalog.Scheduled: {}, catalog.Open: {catalog.Open}, catalog.Paused: {catalog.Open, catalog.Paused}, catalog.Ended: {catalog.Ended},
	}
	for from, path := range paths {
		for _, to := range []catalog.Status{catalog.Scheduled, catalog.Open, catalog.Paused, catalog.Ended, "odd"} {
			v := s.sale(s.draft(catalog.SaleItem{SKU: "A", UnitPrice: eur(1), Stock: 1}))
			want := s.status(v.ID, path...)
			if want.Status != from || want.Revision != int64(1+len(path)) {
				t.Fatalf("on the way to %s: %+v", from, want)
			}
			before, _, err := s.Backlog(t.Context())
			must(t, err)
			got, e, err := s.SetStatus(t.Context(), v.ID, to)
			said := 0
			if from.May(to) {
				must(t, err)
				want.Status, want.Revision, said = to, want.Revision+1, 1
				if !e.Time.Equal(e.Time.Truncate(time.Microsecond)) || time.Since(e.Time).Abs() > time.Minute {
					t.Errorf("%s to %s: said at %s", from, to, e.Time)
				}
				wantSame(t, e, catalog.StatusEvent(want, e.Time))
			} else if !errors.Is(err, catalog.ErrIllegalMove) || e.Type != "" {
				t.Errorf("%s to %s: %v, event %q", from, to, err, e.Type)
			}
			wantSame(t, got, want) // a refusal too says what the sale is
			wantSame(t, s.find(v.ID), want)
			if after, _, err := s.Backlog(t.Context()); err != nil || after != before+said {
				t.Errorf("%s to %s: backlog %d, was %d, %v", from, to, after, before, err)
			}
		}
	}
}

func storeAddStock(t *testing.T, s *shop) {
	s.product(catalog.Product{SKU: "A"})
	s.product(catalog.Product{SKU: "B"})
	v := s.sale(s.draft(catalog.SaleItem{SKU: "A", UnitPrice: eur(1), Stock: 3}, catalog.SaleItem{SKU: "B", UnitPrice: eur(1), Stock: 3}))
	add := id.Derive("addition")
	want := v
	want.Items = slices.Clone(v.Items)
	want.Items[1].Stock = 3 + 1<<33
	got, first, err := s.AddStock(t.Context(), v.ID, "B", add, 1<<33)
	must(t, err)
	wantSame(t, got, want)
	wantSame(t, s.find(v.ID), want)
	wantSame(t, first, catalog.StockEvent(v.ID, "B", add, 1<<33, first.Time))

	// A repetition adds nothing and says the same, whatever it asks and whatever has become of the sale.
	again := func(units int64) {
		t.Helper()
		got, e, err := s.AddStock(t.Context(), v.ID, "B", add, units)
		must(t, err)
		wantSame(t, got, want)
		wantSame(t, e, first)
	}
	again(1 << 33)
	again(9)
	if n, _, err := s.Backlog(t.Context()); err != nil || n != 2 { // scheduled, added
		t.Fatalf("backlog %d, %v", n, err)
	}
	_, _, err = s.AddStock(t.Context(), v.ID, "b", id.Derive("x"), 1)
	wantErr(t, err, catalog.ErrNotFound)
	want = s.status(v.ID, catalog.Ended)
	again(1 << 33)
	_, _, err = s.AddStock(t.Context(), v.ID, "B", id.Derive("late"), 1)
	wantErr(t, err, catalog.ErrEnded)
	wantSame(t, s.find(v.ID), want)
}

func storeSales(t *testing.T, s *shop) {
	s.product(catalog.Product{SKU: "A"})
	s.product(catalog.Product{SKU: "B"})
	var all []catalog.Sale
	for n := range 5 {
		items := []catalog.SaleItem{{SKU: "A", UnitPrice: eur(int64(n)), Stock: 1}, {SKU: "B", UnitPrice: eur(1), Stock: 2}}
		all = append([]catalog.Sale{s.sale(s.draft(items[:1+n%2]...))}, all...)
	}
	var before id.ID
	for _, want := range [][]catalog.Sale{all[:2], all[2:4], all[4:], {}} {
		got, err := s.Sales(t.Context(), before, 2)
		must(t, err)
		wantSame(t, got, want)
		if len(got) > 0 {
			before = got[len(got)-1].ID
		}
	}
}

func storeSalesOf(t *testing.T, s *shop) {
	p := s.product(catalog.Product{SKU: "A"})
	s.product(catalog.Product{SKU: "B"})
	item := catalog.SaleItem{SKU: "A", UnitPrice: eur(1), Stock: 1}
	other := catalog.SaleItem{SKU: "B", UnitPrice: eur(1), Stock: 1}
	now := time.Now().UTC().Truncate(time.Microsecond)
	var want []catalog.Sale
	for n := range 12 { // the last to be made is the first to end
		v := s.draft(item, other)
		v.EndsAt = now.Add(time.Duration(100-n) * time.Hour)
		want = append([]catalog.Sale{s.sale(v)}, want...)
	}
	ended, past, stranger := s.draft(item), s.draft(item), s.draft(other)
	past.OpensAt, past.EndsAt = now.Add(-2*time.Hour), now.Add(-time.Hour)
	ended.EndsAt, stranger.EndsAt = now.Add(time.Minute), now.Add(time.Minute)
	for _, v := range []catalog.Sale{ended, past, stranger} {
		s.sale(v)
	}
	s.status(ended.ID, catalog.Ended)
	want[0] = s.status(want[0].ID, catalog.Open, catalog.Paused)
	got, err := s.SalesOf(t.Context(), p.ID)
	must(t, err)
	wantSame(t, got, want[:10])
}

func storeOutbox(t *testing.T, s *shop) {
	s.product(catalog.Product{SKU: "A"})
	v, created, err := s.CreateSale(t.Context(), s.draft(catalog.SaleItem{SKU: "A", UnitPrice: eur(1), Stock: 1}))
	must(t, err)
	_, opened, err := s.SetStatus(t.Context(), v.ID, catalog.Open)
	must(t, err)
	_, added, err := s.AddStock(t.Context(), v.ID, "A", id.Derive("addition"), 4)
	must(t, err)
	want := []transport.Envelope{created, opened, added}
	if d, err := transport.Decode[catalog.StockData](added); err != nil || d != (catalog.StockData{Addition: id.Derive("addition"), Sale: v.ID, SKU: "A", Quantity: 4}) {
		t.Fatalf("%+v, %v", d, err)
	}
	if young, err := s.Unsent(t.Context(), time.Hour, 10); err != nil || len(young) != 0 {
		t.Fatalf("an hour old already: %+v, %v", young, err)
	}
	for _, some := range [][]transport.Envelope{want[:2], want[2:]} { // the oldest first, to one relay only
		got, err := s.Unsent(t.Context(), 0, 2)
		must(t, err)
		if !transporttest.SameAll(got, some) {
			t.Fatalf("is   %+v\nwant %+v", got, some)
		}
	}
	if got, err := s.Unsent(t.Context(), 0, 2); err != nil || len(got) != 0 {
		t.Fatalf("leased to two relays: %+v, %v", got, err)
	}
	must(t, s.MarkSent(t.Context(), []id.ID{created.ID, added.ID, id.Derive("unknown")}))
	if n, age, err := s.Backlog(t.Context()); err != nil || n != 1 || age <= 0 {
		t.Fatalf("backlog %d, %s, %v", n, age, err)
	}
	must(t, s.MarkSent(t.Context(), []id.ID{opened.ID}))
	if n, age, err := s.Backlog(t.Context()); err != nil || n != 0 || age != 0 {
		t.Fatalf("backlog %d, %s, %v", n, age, err)
	}
}

// storeCrowd: operators press the same buttons at the same time. One of them opens the sale, and
// every addition is added once.
func storeCrowd(t *testing.T, s *shop) {
	s.product(catalog.Product{SKU: "A"})
	v := s.sale(s.draft(catalog.SaleItem{SKU: "A", UnitPrice: eur(1), Stock: 1}))
	var opened atomic.Int64
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			switch _, _, err := s.SetStatus(t.Context(), v.ID, catalog.Open); {
			case err == nil:
				opened.Add(1)
			case !errors.Is(err, catalog.ErrIllegalMove):
				t.Error(err)
			}
			for n := range 5 {
				if _, _, err := s.AddStock(t.Context(), v.ID, "A", id.Derive("addition", fmt.Sprint(n)), int64(1+n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want := v
	want.Status, want.Revision = catalog.Open, 2
	want.Items[0].Stock = 1 + 1 + 2 + 3 + 4 + 5
	wantSame(t, s.find(v.ID), want)
	if opened.Load() != 1 {
		t.Fatalf("opened %d times", opened.Load())
	}
	if n, _, err := s.Backlog(t.Context()); err != nil || n != 1+1+5 {
		t.Fatalf("backlog %d, %v", n, err)
	}
}

func storeNothing(t *testing.T, s *shop) {
	none := id.Derive("none")
	_, err := s.Product(t.Context(), none)
	wantErr(t, err, catalog.ErrNotFound)
	_, err = s.Sale(t.Context(), none)
	wantErr(t, err, catalog.ErrNotFound)
	_, e, err := s.SetStatus(t.Context(), none, catalog.Open)
	if !errors.Is(err, catalog.ErrNotFound) || e.Type != "" {
		t.Fatalf("%v, event %+v", err, e)
	}
	_, _, err = s.AddStock(t.Context(), none, "A", none, 1)
	wantErr(t, err, catalog.ErrNotFound)
	p := s.product(catalog.Product{}) // in no sale
	ps, err := s.List(t.Context(), catalog.Filter{After: p.ID, Limit: 5})
	must(t, err)
	wantSame(t, ps, []catalog.Product{})
	for what, list := range map[string]func() ([]catalog.Sale, error){
		"sales":               func() ([]catalog.Sale, error) { return s.Sales(t.Context(), id.ID{}, 5) },
		"sales of a product":  func() ([]catalog.Sale, error) { return s.SalesOf(t.Context(), p.ID) },
		"sales of no product": func() ([]catalog.Sale, error) { return s.SalesOf(t.Context(), none) },
	} {
		if got, err := list(); err != nil || got == nil || len(got) != 0 {
			t.Errorf("%s: %#v, %v", what, got, err)
		}
	}
	must(t, s.MarkSent(t.Context(), nil))
	if n, age, err := s.Backlog(t.Context()); err != nil || n != 0 || age != 0 {
		t.Fatalf("backlog %d, %s, %v", n, age, err)
	}
}
