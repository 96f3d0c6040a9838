package catalog

import (
	"flashsale/id"
	"flashsale/money"
	"time"
)

// The events that catalog says.
const (
	EventScheduled  = "sale.scheduled"      // catalog → inventory: open the books
	EventStatus     = "sale.status_changed" // catalog → inventory
	EventStockAdded = "sale.stock_added"    // catalog → inventory
)

// SaleData is the payload of sale.scheduled and sale.status_changed (which has no items).
type SaleData struct {
	Sale     id.ID      `json:"sale"`
	Status   string     `json:"status"` // scheduled, open, paused, ended
	OpensAt  time.Time  `json:"opens_at"`
	EndsAt   time.Time  `json:"ends_at"`
	Limit    int        `json:"per_user_limit"` // units per shopper and item, 0 for none
	HoldMS   int64      `json:"hold_ms"`
	Revision int64      `json:"revision"`
	Items    []ItemData `json:"items,omitempty"`
}

// ItemData is one sale item on the wire.
type ItemData struct {
	SKU       string      `json:"sku"`
	UnitPrice money.Money `json:"unit_price"`
	Stock     int64       `json:"stock"`
}

// StockData is the payload of sale.stock_added.
type StockData struct {
	Addition id.ID  `json:"addition"`
	Sale     id.ID  `json:"sale"`
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}
