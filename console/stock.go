package console

import (
	"net/http"
	"strconv"
	"time"
)

// phase is what a sale looks like to a shopper at a moment.
type phase struct {
	Name  string    // soon, open, paused or over
	Label string    // for people
	Word  string    // before the countdown
	Until time.Time // what is counted down to; zero for nothing
}

func phaseOf(status string, opens, ends, now time.Time) phase {
	switch {
	case status == "ended" || !now.Before(ends):
		return phase{Name: "over", Label: "Over"}
	case status == "paused":
		return phase{Name: "paused", Label: "Paused", Word: "Ends in", Until: ends}
	case now.Before(opens):
		return phase{Name: "soon", Label: "Opens soon", Word: "Opens in", Until: opens}
	case status != "open":
		return phase{Name: "soon", Label: "Opens any moment"}
	}
	return phase{Name: "open", Label: "Open", Word: "Ends in", Until: ends}
}

// stock is where the units of an item are.
type stock struct {
	Known                        bool // false until the ledger has the item
	Total, Available, Held, Sold int64
}

func stockOf(i saleItem) stock {
	s := stock{Total: i.Stock, Held: i.Held, Sold: i.Sold}
	if i.Available != nil {
		s.Known, s.Available = true, *i.Available
	}
	return s
}

func (s stock) plus(o stock) stock {
	return stock{s.Known || o.Known, s.Total + o.Total, s.Available + o.Available, s.Held + o.Held, s.Sold + o.Sold}
}

// percent has one decimal, with a point in every language: it is an attribute of an SVG.
func (s stock) percent(n int64) string {
	if s.Total <= 0 {
		return "0"
	}
	return strconv.FormatFloat(min(100, 100*float64(n)/float64(s.Total)), 'f', 1, 64)
}

// SoldPart and HeldPart are the widths of the bar; what is left of it is available.
func (s stock) SoldPart() string { return s.percent(s.Sold) }

// HeldPart is the width of what is held.
func (s stock) HeldPart() string { return s.percent(s.Held) }

// SoldOut reports whether every unit is paid for.
func (s stock) SoldOut() bool { return s.Known && s.Sold >= s.Total }

const itemsPerPage = 24

// pageOf cuts a page out of a sale's items: whole number from 1, and whether there is one after it.
func pageOf(r *http.Request, items []saleItem) (page int, part []saleItem, more bool) {
	page, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil || page < 1 || page > len(items)/itemsPerPage+1 {
		page = 1
	}
	from := (page - 1) * itemsPerPage
	to := min(len(items), from+itemsPerPage)
	return page, items[from:to], to < len(items)
}

type liveItem struct {
	SKU       string `json:"sku"`
	Known     bool   `json:"known"`
	Total     int64  `json:"total"`
	Available int64  `json:"available"`
	Held      int64  `json:"held"`
	Sold      int64  `json:"sold"`
	Buyable   bool   `json:"buyable"`
}

// liveStock answers the script of a sale's page.
func (c *Console) liveStock(v *visit) (any, error) {
	s, err := v.sale(v.r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	now := c.cfg.Clock().UTC()
	p := phaseOf(s.Status, s.OpensAt, s.EndsAt, now)
	_, part, _ := pageOf(v.r, s.Items)
	out := struct {
		Now   time.Time  `json:"now"`
		State string     `json:"state"`
		Phase string     `json:"phase"`
		Label string     `json:"label"`
		Word  string     `json:"word"`
		Until time.Time  `json:"until,omitzero"`
		Items []liveItem `json:"items"`
	}{now, s.Status, p.Name, p.Label, p.Word, p.Until, []liveItem{}}
	for _, i := range part {
		n := stockOf(i)
		out.Items = append(out.Items, liveItem{i.SKU, n.Known, n.Total, n.Available, n.Held, n.Sold, p.Name == "open" && !n.SoldOut()})
	}
	return out, nil
}

// liveState answers the script of a page that waits for a decision.
func (c *Console) liveState(kind string) func(*visit) (any, error) {
	return func(v *visit) (any, error) {
		id, err := v.pathID()
		if err != nil {
			return nil, err
		}
		got, err := read[struct {
			State string `json:"state"`
		}](v.authorized(call{method: http.MethodGet, path: "/api/v1/" + kind + "/" + id}))
		if err != nil {
			return nil, err
		}
		return struct {
			Now   time.Time `json:"now"`
			State string    `json:"state"`
		}{c.cfg.Clock().UTC(), got.State}, nil
	}
}
