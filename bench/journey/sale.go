package journey

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// OpenSale makes a sample product and a sale of it as the operator, opens the sale, and waits until
// it can be bought.
func OpenSale(ctx context.Context, c Crowd) (Sale, error) {
	op := &client{http: c.Client, base: c.Base}
	var tokens struct {
		Access string `json:"access_token"`
	}
	a, err := op.patient(ctx, "operator login", http.MethodPost, "/api/v1/auth/login", "", map[string]string{"email": c.Operator, "password": c.Password})
	if err == nil {
		err = a.into("operator login", &tokens, http.StatusOK)
	}
	if err != nil {
		return Sale{}, err
	}
	op.token = tokens.Access
	now := time.Now().UTC()
	sku := fmt.Sprintf("SNEAKER-%d", now.UnixMicro())
	price := map[string]any{"amount": 12900, "currency": "EUR"}
	var product, sale struct {
		ID string `json:"id"`
	}
	a, err = op.patient(ctx, "create product", http.MethodPost, "/api/v1/admin/products", sku, map[string]any{
		"sku": sku, "name": "Limited sneaker", "description": "One run, never made again.", "category": "shoes", "price": price,
	})
	if err == nil {
		err = a.into("create product", &product, http.StatusCreated)
	}
	if err != nil {
		return Sale{}, err
	}
	limit := c.Limit
	if limit == 0 {
		limit = c.Units
	}
	a, err = op.patient(ctx, "create sale", http.MethodPost, "/api/v1/admin/sales", "sale-"+sku, map[string]any{
		"name": "Opening minute", "opens_at": now.Add(-time.Minute).Format(time.RFC3339), "ends_at": now.Add(24 * time.Hour).Format(time.RFC3339),
		"per_user_limit": max(limit, 0), "hold_seconds": int(max(c.Hold.Seconds(), 1)),
		"items": []map[string]any{{"sku": sku, "unit_price": map[string]any{"amount": 9900, "currency": "EUR"}, "stock": c.Stock}},
	})
	if err == nil {
		err = a.into("create sale", &sale, http.StatusCreated, http.StatusAccepted)
	}
	if err != nil {
		return Sale{}, err
	}
	a, err = op.patient(ctx, "open sale", http.MethodPost, "/api/v1/admin/sales/"+sale.ID+"/open", "", nil)
	if err != nil || a.status != http.StatusOK && a.status != http.StatusAccepted {
		return Sale{}, orSurprise(err, a, "open sale")
	}
	s := Sale{ID: sale.ID, SKU: sku, Product: product.ID}
	// The books may open a moment later than the catalogue says: wait for the live stock.
	err = op.until(ctx, "wait for stock", "/api/v1/sales/"+sale.ID, max(c.Decide, 15*time.Second), func(a reply) (bool, error) {
		var now struct {
			Status string `json:"status"`
			Items  []struct {
				Available *int64 `json:"available"`
			} `json:"items"`
		}
		if err := a.into("wait for stock", &now, http.StatusOK); err != nil {
			return false, err
		}
		return now.Status == "open" && len(now.Items) == 1 && now.Items[0].Available != nil && *now.Items[0].Available == c.Stock, nil
	})
	return s, err
}
