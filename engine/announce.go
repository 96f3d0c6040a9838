package engine

import (
	"context"
	"errors"
	"flashsale/catalog"
	"flashsale/inventory"
	"flashsale/transport"
)

// Announced returns whether the ledger has what the catalogue has said: the sale, its status, or the
// stock that was added.
func Announced(sales SaleReader, own catalog.Sales) func(context.Context, transport.Envelope) (bool, error) {
	return func(ctx context.Context, e transport.Envelope) (bool, error) {
		there, err := sales.Sale(ctx, e.Subject)
		if errors.Is(err, inventory.ErrUnknownSale) {
			return false, nil
		}
		if err != nil || e.Type == catalog.EventScheduled {
			return err == nil, err
		}
		if e.Type == catalog.EventStatus {
			d, err := transport.Decode[catalog.SaleData](e)
			return there.Revision >= d.Revision, err
		}
		d, err := transport.Decode[catalog.StockData](e)
		if err != nil {
			return false, err
		}
		sale, err := own.Sale(ctx, e.Subject)
		if err != nil {
			return false, err
		}
		// Additions are counted together: until all of an item are there, each is said again.
		var want, has int64
		for _, item := range sale.Items {
			if item.SKU == d.SKU {
				want = item.Stock
			}
		}
		for _, item := range there.Items {
			if item.SKU == d.SKU {
				has = item.Total
			}
		}
		return has >= want, nil
	}
}
