// Package catalog defines products and sales: what can be bought, when, and on which terms.
package catalog

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/money"
	"flashsale/transport"
	"fmt"
	"time"
)

// Product is something that can be sold.
type Product struct {
	ID          id.ID
	SKU         string // unique
	Name        string
	Description string
	Category    string
	Price       money.Money // the list price; a sale has its own
	CreatedAt   time.Time   // UTC
}

// Status is what the operators have set.
type Status string

// The statuses of a sale.
const (
	Scheduled Status = "scheduled"
	Open      Status = "open"
	Paused    Status = "paused"
	Ended     Status = "ended"
)

// May reports whether a sale may go from one status to another.
func (s Status) May(to Status) bool {
	switch to {
	case Open:
		return s == Scheduled || s == Paused
	case Paused:
		return s == Open
	case Ended:
		return s != Ended
	case Scheduled:
	}
	return false
}

// Sale is an event at which items are sold.
type Sale struct {
	ID           id.ID
	Name         string
	Status       Status
	OpensAt      time.Time // UTC
	EndsAt       time.Time // UTC
	PerUserLimit int       // units per shopper and item, 0 for none
	HoldFor      time.Duration
	Revision     int64 // rises with every change of status
	CreatedAt    time.Time
	Items        []SaleItem // sorted by SKU
}

// SaleItem is one item of a sale.
type SaleItem struct {
	SKU       string
	Product   id.ID
	UnitPrice money.Money
	Stock     int64 // every unit ever put on sale
}

// Filter narrows a list of products. The zero Filter is every product.
type Filter struct {
	Words    []string // each a prefix of a word in name, description, category or SKU; lower case
	Category string
	MinPrice int64 // minor units, inclusive
	MaxPrice int64 // minor units, inclusive; 0 for none
	After    id.ID // the last product of the page before
	Limit    int
}

// Products keeps products. Every call is one transaction.
type Products interface {
	// CreateProduct stores a product. ErrSKUTaken.
	CreateProduct(ctx context.Context, p Product) error
	// Product returns a product, or ErrNotFound.
	Product(ctx context.Context, product id.ID) (Product, error)
	// List returns products in the order of their ids (the order they were made in), after the
	// filter's cursor.
	List(ctx context.Context, f Filter) ([]Product, error)
	// SalesOf returns the sales of a product that have not ended, the next to end first, at most ten.
	SalesOf(ctx context.Context, product id.ID) ([]Sale, error)
}

// Sales keeps sales. Every call is one transaction, with its event in the outbox.
type Sales interface {
	// CreateSale stores a sale whose items name products by SKU, and returns it with the products
	// filled in and the event that was written. ErrUnknownSKU. A sale that is there is returned.
	CreateSale(ctx context.Context, s Sale) (Sale, transport.Envelope, error)
	// Sale returns a sale, or ErrNotFound.
	Sale(ctx context.Context, sale id.ID) (Sale, error)
	// Sales returns sales, the newest first, at most limit, older than the cursor unless it is zero.
	Sales(ctx context.Context, before id.ID, limit int) ([]Sale, error)
	// SetStatus changes the status by compare-and-set, and returns the sale as it then is and the
	// event that was written. ErrNotFound, ErrIllegalMove.
	SetStatus(ctx context.Context, sale id.ID, to Status) (Sale, transport.Envelope, error)
	// AddStock adds units to an item, once per addition, and returns the sale as it then is and the
	// event (the same again for a repetition). ErrNotFound, ErrEnded.
	AddStock(ctx context.Context, sale id.ID, sku string, addition id.ID, units int64) (Sale, transport.Envelope, error)
}

// ItemStock is where the units of a sale item are.
type ItemStock struct {
	SKU       string `json:"sku"`
	Total     int64  `json:"total"`
	Available int64  `json:"available"`
	Held      int64  `json:"held"`
	Sold      int64  `json:"sold"`
}

// Live is a sale as the ledger enforces it at this moment. A change that was announced but has not
// arrived there yet does not show.
type Live struct {
	Status Status      `json:"status"`
	Items  []ItemStock `json:"items"`
}

// Stock reads a sale live.
type Stock interface {
	SaleStock(ctx context.Context, sale id.ID) (Live, error)
}

// Cache keeps what was read for a moment. It may forget anything at any time; an error is treated
// as a miss.
type Cache interface {
	// Get returns the value of a key, or ok false.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)
	// Set keeps a value for at most ttl.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error
	// Delete forgets keys.
	Delete(ctx context.Context, keys ...string) error
}

// Errors of the stores and the service.
var (
	ErrNotFound    = errors.New("catalog: no such product or sale")
	ErrSKUTaken    = errors.New("catalog: there is a product with this SKU already")
	ErrUnknownSKU  = errors.New("catalog: a sale item names a SKU that is no product; create the product first")
	ErrIllegalMove = errors.New("catalog: the sale cannot go from its present status to that one")
	ErrEnded       = errors.New("catalog: the sale has ended")
	ErrInvalid     = errors.New("catalog: invalid")
)

// invalid says which field is wrong and what is allowed. It is ErrInvalid.
func invalid(field, allowed string) error { return fmt.Errorf("%w: %s %s", ErrInvalid, field, allowed) }

// ScheduledEvent returns the event that a sale was created.
func ScheduledEvent(s Sale) transport.Envelope {
	d := data(s)
	for _, i := range s.Items {
		d.Items = append(d.Items, ItemData{SKU: i.SKU, UnitPrice: i.UnitPrice, Stock: i.Stock})
	}
	return transport.New(EventScheduled, transport.Catalog, s.ID, s.CreatedAt, "", d)
}

// StatusEvent returns the event that a sale has another status.
func StatusEvent(s Sale, at time.Time) transport.Envelope {
	return transport.Repeatable(EventStatus, transport.Catalog, s.ID, fmt.Sprint(s.Revision), at, "", data(s))
}

// StockEvent returns the event that units were added.
func StockEvent(sale id.ID, sku string, addition id.ID, units int64, at time.Time) transport.Envelope {
	return transport.Repeatable(EventStockAdded, transport.Catalog, sale, addition.String(), at, "",
		StockData{Addition: addition, Sale: sale, SKU: sku, Quantity: units})
}

func data(s Sale) SaleData {
	return SaleData{
		Sale: s.ID, Status: string(s.Status), OpensAt: s.OpensAt, EndsAt: s.EndsAt, Limit: s.PerUserLimit,
		HoldMS: s.HoldFor.Milliseconds(), Revision: s.Revision,
	}
}
