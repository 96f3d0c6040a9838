package catalog_test

import (
	"errors"
	"flashsale/catalog"
	"flashsale/money"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

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

// wantField expects no error for an empty field, and otherwise ErrInvalid that names it.
func wantField(t *testing.T, what string, err error, field string) {
	t.Helper()
	switch {
	case field == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case field != "" && (!errors.Is(err, catalog.ErrInvalid) || !strings.Contains(err.Error(), "invalid: "+field+" ")):
		t.Errorf("%s: %v, want %q to be invalid", what, err, field)
	}
}

func eur(amount int64) money.Money { return money.Money{Amount: amount, Currency: "EUR"} }

func chair() catalog.Product {
	return catalog.Product{SKU: "CHAIR-1", Name: "Chair", Description: "A chair", Category: "Furniture", Price: eur(4990)}
}

var opens = time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)

func friday(items ...catalog.SaleItem) catalog.Sale {
	if items == nil {
		items = []catalog.SaleItem{{SKU: "CHAIR-1", UnitPrice: eur(990), Stock: 5}}
	}
	return catalog.Sale{Name: "Friday", OpensAt: opens, EndsAt: opens.Add(time.Hour), PerUserLimit: 2, HoldFor: time.Minute, Items: items}
}

func TestProductValidate(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		change func(p *catalog.Product)
		field  string
	}{
		"as it is":                  {func(*catalog.Product) {}, ""},
		"no SKU":                    {func(p *catalog.Product) { p.SKU = "" }, "sku"},
		"SKU of 64":                 {func(p *catalog.Product) { p.SKU = strings.Repeat("aZ9._-xx", 8) }, ""},
		"SKU of 65":                 {func(p *catalog.Product) { p.SKU = strings.Repeat("a", 65) }, "sku"},
		"SKU with a space":          {func(p *catalog.Product) { p.SKU = "A B" }, "sku"},
		"SKU with a slash":          {func(p *catalog.Product) { p.SKU = "A/B" }, "sku"},
		"SKU beyond ASCII":          {func(p *catalog.Product) { p.SKU = "É" }, "sku"},
		"no name":                   {func(p *catalog.Product) { p.Name = "" }, "name"},
		"name of 200 characters":    {func(p *catalog.Product) { p.Name = strings.Repeat("椅", 200) }, ""},
		"name of 201":               {func(p *catalog.Product) { p.Name = strings.Repeat("a", 201) }, "name"},
		"name that is not UTF-8":    {func(p *catalog.Product) { p.Name = "a\xff" }, "name"},
		"name with a NUL":           {func(p *catalog.Product) { p.Name = "a\x00b" }, "name"},
		"no description":            {func(p *catalog.Product) { p.Description = "" }, ""},
		"description of two lines":  {func(p *catalog.Product) { p.Description = "a\n\tb" }, ""},
		"description with an ESC":   {func(p *catalog.Product) { p.Description = "\x1b[2J" }, "description"},
		"description of 5000":       {func(p *catalog.Product) { p.Description = strings.Repeat("a", 5000) }, ""},
		"description of 5001":       {func(p *catalog.Product) { p.Description = strings.Repeat("a", 5001) }, "description"},
		"no category":               {func(p *catalog.Product) { p.Category = "" }, "category"},
		"category of 65":            {func(p *catalog.Product) { p.Category = strings.Repeat("a", 65) }, "category"},
		"free":                      {func(p *catalog.Product) { p.Price = eur(0) }, ""},
		"a price below nothing":     {func(p *catalog.Product) { p.Price = eur(-1) }, "price"},
		"a price in no currency":    {func(p *catalog.Product) { p.Price.Currency = "" }, "price"},
		"a price in small currency": {func(p *catalog.Product) { p.Price.Currency = "eur" }, "price"},
	} {
		p := chair()
		c.change(&p)
		wantField(t, what, p.Validate(), c.field)
	}
}

func TestSaleValidate(t *testing.T) {
	t.Parallel()
	item := func(change func(i *catalog.SaleItem)) func(*catalog.Sale) {
		return func(s *catalog.Sale) { change(&s.Items[0]) }
	}
	west, east := time.FixedZone("west", -12*3600), time.FixedZone("east", 12*3600)
	for what, c := range map[string]struct {
		change func(s *catalog.Sale)
		field  string
	}{
		"as it is":              {func(*catalog.Sale) {}, ""},
		"no name":               {func(s *catalog.Sale) { s.Name = "" }, "name"},
		"no opening":            {func(s *catalog.Sale) { s.OpensAt = time.Time{} }, "ends_at"},
		"no end":                {func(s *catalog.Sale) { s.EndsAt = time.Time{} }, "ends_at"},
		"an end at the opening": {func(s *catalog.Sale) { s.EndsAt = s.OpensAt }, "ends_at"},
		"a microsecond long":    {func(s *catalog.Sale) { s.EndsAt = s.OpensAt.Add(time.Microsecond) }, ""},
		"from the first second": {func(s *catalog.Sale) { s.OpensAt = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }, ""},
		"before it, elsewhere":  {func(s *catalog.Sale) { s.OpensAt = time.Date(2000, 1, 1, 0, 0, 0, 0, east) }, "opens_at"},
		"until the last second": {func(s *catalog.Sale) { s.EndsAt = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }, ""},
		"beyond it, elsewhere":  {func(s *catalog.Sale) { s.EndsAt = time.Date(9999, 12, 31, 23, 59, 59, 0, west) }, "opens_at"},
		"no limit":              {func(s *catalog.Sale) { s.PerUserLimit = 0 }, ""},
		"a limit below none":    {func(s *catalog.Sale) { s.PerUserLimit = -1 }, "per_user_limit"},
		"a limit of 1000":       {func(s *catalog.Sale) { s.PerUserLimit = 1000 }, ""},
		"a limit of 1001":       {func(s *catalog.Sale) { s.PerUserLimit = 1001 }, "per_user_limit"},
		"no hold":               {func(s *catalog.Sale) { s.HoldFor = 0 }, "hold_seconds"},
		"a hold of a second":    {func(s *catalog.Sale) { s.HoldFor = time.Second }, ""},
		"a hold of a day":       {func(s *catalog.Sale) { s.HoldFor = 24 * time.Hour }, ""},
		"a longer hold":         {func(s *catalog.Sale) { s.HoldFor = 24*time.Hour + 1 }, "hold_seconds"},
		"no items":              {func(s *catalog.Sale) { s.Items = nil }, "items"},
		"1000 items":            {func(s *catalog.Sale) { s.Items = many(1000) }, ""},
		"1001 items":            {func(s *catalog.Sale) { s.Items = many(1001) }, "items"},
		"an item twice":         {func(s *catalog.Sale) { s.Items = append(s.Items, s.Items[0]) }, "items"},
		"an item without SKU":   {item(func(i *catalog.SaleItem) { i.SKU = "" }), "sku"},
		"no stock":              {item(func(i *catalog.SaleItem) { i.Stock = 0 }), "stock"},
		"the most stock":        {item(func(i *catalog.SaleItem) { i.Stock = catalog.MaxStock }), ""},
		"more than that":        {item(func(i *catalog.SaleItem) { i.Stock = catalog.MaxStock + 1 }), "stock"},
		"for nothing":           {item(func(i *catalog.SaleItem) { i.UnitPrice = eur(0) }), ""},
		"for less":              {item(func(i *catalog.SaleItem) { i.UnitPrice = eur(-1) }), "unit_price"},
		"for too much":          {item(func(i *catalog.SaleItem) { i.UnitPrice = eur(1_000_000_000_001) }), "unit_price"},
		"in no currency":        {item(func(i *catalog.SaleItem) { i.UnitPrice.Currency = "EURO" }), "unit_price"},
	} {
		s := friday()
		c.change(&s)
		wantField(t, what, s.Validate(), c.field)
	}
}

func many(n int) []catalog.SaleItem {
	items := make([]catalog.SaleItem, n)
	for i := range items {
		items[i] = catalog.SaleItem{SKU: fmt.Sprint("A-", i), UnitPrice: eur(1), Stock: 1}
	}
	return items
}

func TestMay(t *testing.T) {
	t.Parallel()
	all := []catalog.Status{catalog.Scheduled, catalog.Open, catalog.Paused, catalog.Ended, ""}
	may := map[catalog.Status][]catalog.Status{
		catalog.Scheduled: {catalog.Open, catalog.Ended}, catalog.Open: {catalog.Paused, catalog.Ended}, catalog.Paused: {catalog.Open, catalog.Ended},
	}
	for _, from := range all[:4] {
		for _, to := range all {
			if got, want := from.May(to), slices.Contains(may[from], to); got != want {
				t.Errorf("%s to %q: %v, want %v", from, to, got, want)
			}
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for q, want := range map[string][]string{
		"":                    {},
		" \t%_\\'-":           {},
		"Red red RED":         {"red"},
		"b a-c":               {"a", "b", "c"},
		"100% Wool":           {"100", "wool"},
		"ÉTÉ e\u0301te\u0301": {"été"}, // one accent, two encodings
		"हिन्दी":              {"हिन्दी"},
		"電話 携帯":               {"携帯", "電話"},
	} {
		if got := catalog.Words(q); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", q, got, want)
		}
	}
}

func TestSearchText(t *testing.T) {
	t.Parallel()
	p := chair()
	p.Name, p.Description = "Ärm-Chair", "chair 2"
	if got, want := p.SearchText(), " 1 2 chair furniture ärm"; got != want {
		t.Fatalf("%q, want %q", got, want)
	}
}
