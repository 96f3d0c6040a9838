package engine

import (
	"context"
	"errors"
	"flashsale/catalog"
	"flashsale/id"
	"flashsale/inventory"
)

// LiveStock reads status and stock of a sale from the ledger. It implements catalog.Stock.
type LiveStock struct{ Sales SaleReader }

// SaleStock implements catalog.Stock.
func (l LiveStock) SaleStock(ctx context.Context, sale id.ID) (catalog.Live, error) {
	s, err := l.Sales.Sale(ctx, sale)
	if errors.Is(err, inventory.ErrUnknownSale) { // announced, and not there yet
		return catalog.Live{Status: catalog.Scheduled}, nil
	}
	if err != nil {
		return catalog.Live{}, err
	}
	out := catalog.Live{Status: catalog.Status(s.Status), Items: make([]catalog.ItemStock, 0, len(s.Items))}
	for _, item := range s.Items {
		held, sold := item.Sum()
		var available int64
		for _, b := range item.Buckets {
			available += b.Available()
		}
		out.Items = append(out.Items, catalog.ItemStock{SKU: item.SKU, Total: item.Total, Available: available, Held: held, Sold: sold})
	}
	return out, nil
}
