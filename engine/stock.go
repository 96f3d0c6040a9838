package engine

import (
	"context"
	"flashsale/catalog"
	"flashsale/id"
)

// LiveStock reads the live stock of a sale from the ledger. It implements catalog.Stock.
type LiveStock struct{ Sales SaleReader }

// SaleStock implements catalog.Stock.
func (l LiveStock) SaleStock(ctx context.Context, sale id.ID) ([]catalog.ItemStock, error) {
	s, err := l.Sales.Sale(ctx, sale)
	if err != nil {
		return nil, err
	}
	out := make([]catalog.ItemStock, 0, len(s.Items))
	for _, item := range s.Items {
		held, sold := item.Sum()
		var available int64
		for _, b := range item.Buckets {
			available += b.Available()
		}
		out = append(out, catalog.ItemStock{SKU: item.SKU, Total: item.Total, Available: available, Held: held, Sold: sold})
	}
	return out, nil
}
