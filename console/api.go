package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// call is a request to the API.
type call struct {
	method string
	path   string // escaped, below the base URL
	token  string
	key    string // Idempotency-Key
	body   any
}

// answer is what the API said when it was no problem.
type answer struct {
	status int
	body   []byte
}

// problem is an error as the API words it: RFC 9457.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	RequestID string `json:"request_id"`
}

func (p *problem) Error() string {
	return fmt.Sprintf("console: the API refused: %d %s (request %s)", p.Status, p.Type, p.RequestID)
}

// kind is the last part of the type.
func (p *problem) kind() string { return p.Type[strings.LastIndexByte(p.Type, '/')+1:] }

const maxAnswer = 4 << 20 // bytes read of an answer

// do calls the API: an answer, a *problem, or errDown. The request's id and trace travel on.
func (c *Console) do(ctx context.Context, from *http.Request, q call) (answer, error) {
	var payload io.Reader
	if q.body != nil {
		b, err := json.Marshal(q.body)
		if err != nil {
			return answer{}, err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, c.base+q.path, payload)
	if err != nil {
		return answer{}, err
	}
	if q.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if q.token != "" {
		req.Header.Set("Authorization", "Bearer "+q.token)
	}
	if q.key != "" {
		req.Header.Set("Idempotency-Key", q.key)
	}
	for _, name := range []string{"X-Request-Id", "Traceparent"} {
		if s := from.Header.Get(name); s != "" {
			req.Header.Set(name, s)
		}
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", errDown, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", errDown, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return answer{resp.StatusCode, b}, nil
	}
	p := &problem{}
	if json.Unmarshal(b, p) != nil || p.Type == "" { // a proxy's own page, for one
		return answer{}, fmt.Errorf("%w: %s %s answered %d without a problem", errDown, q.method, q.path, resp.StatusCode)
	}
	p.Status = resp.StatusCode
	return answer{}, p
}

// read decodes an answer. Fields that are not known here may be there.
func read[T any](a answer, err error) (T, error) {
	var v T
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		return v, fmt.Errorf("%w: an answer that is not what the API's document says: %w", errDown, err)
	}
	return v, nil
}

// fetch calls the API and decodes.
func fetch[T any](ctx context.Context, c *Console, from *http.Request, q call) (T, error) {
	return read[T](c.do(ctx, from, q))
}

// What the console reads of the API's answers.
type (
	tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	product struct {
		ID          string  `json:"id"`
		SKU         string  `json:"sku"`
		Name        string  `json:"name"`
		Description string  `json:"description"`
		Category    string  `json:"category"`
		Price       money   `json:"price"`
		Offers      []offer `json:"offers"`
	}
	offer struct {
		Sale      string    `json:"sale_id"`
		Status    string    `json:"status"`
		OpensAt   time.Time `json:"opens_at"`
		EndsAt    time.Time `json:"ends_at"`
		UnitPrice money     `json:"unit_price"`
		Available *int64    `json:"available"`
	}
	sale struct {
		ID      string     `json:"id"`
		Name    string     `json:"name"`
		Status  string     `json:"status"`
		OpensAt time.Time  `json:"opens_at"`
		EndsAt  time.Time  `json:"ends_at"`
		Limit   int        `json:"per_user_limit"`
		Hold    int64      `json:"hold_seconds"`
		Items   []saleItem `json:"items"`
	}
	saleItem struct {
		SKU       string `json:"sku"`
		Product   string `json:"product_id"`
		UnitPrice money  `json:"unit_price"`
		Stock     int64  `json:"stock"`
		Available *int64 `json:"available"`
		Held      int64  `json:"held"`
		Sold      int64  `json:"sold"`
	}
	reservation struct {
		ID        string    `json:"id"`
		Order     string    `json:"order_id"`
		State     string    `json:"state"`
		Reason    string    `json:"reason"`
		Sale      string    `json:"sale_id"`
		SKU       string    `json:"sku"`
		Quantity  int       `json:"quantity"`
		UnitPrice money     `json:"unit_price"`
		Total     money     `json:"total"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	order struct {
		ID          string    `json:"id"`
		Reservation string    `json:"reservation_id"`
		State       string    `json:"state"`
		Reason      string    `json:"reason"`
		Sale        string    `json:"sale_id"`
		SKU         string    `json:"sku"`
		Quantity    int       `json:"quantity"`
		UnitPrice   money     `json:"unit_price"`
		Total       money     `json:"total"`
		CreatedAt   time.Time `json:"created_at"`
		ExpiresAt   time.Time `json:"expires_at"`
	}
	payment struct {
		ID     string `json:"id"`
		Order  string `json:"order_id"`
		State  string `json:"state"`
		Reason string `json:"reason"`
		Amount money  `json:"amount"`
	}
	report struct {
		Clean  bool `json:"clean"`
		Checks []struct {
			Equation int    `json:"equation"`
			Name     string `json:"name"`
			Figures  string `json:"figures"`
			OK       bool   `json:"ok"`
		} `json:"checks"`
	}
)

// isID reports whether s is an id of the API: lower-case hexadecimal digits and dashes, 36 of them.
func isID(s string) bool { return len(s) == 36 && strings.Trim(s, "0123456789abcdef-") == "" }

// pathID returns the id of the address, or errNoPage.
func (v *visit) pathID() (string, error) {
	s := v.r.PathValue("id")
	if !isID(s) {
		return "", errNoPage
	}
	return s, nil
}

// sale reads a sale with its live stock, at most stockAge old.
func (v *visit) sale(id string) (sale, error) {
	if !isID(id) {
		return sale{}, errNoPage
	}
	return v.c.sales.get(v.r.Context(), id, func(ctx context.Context) (sale, error) {
		return fetch[sale](ctx, v.c, v.r, call{method: http.MethodGet, path: "/api/v1/sales/" + id})
	})
}

// product reads a product, at most productAge old.
func (v *visit) product(id string) (product, error) {
	if !isID(id) {
		return product{}, errNoPage
	}
	return v.c.products.get(v.r.Context(), id, func(ctx context.Context) (product, error) {
		return fetch[product](ctx, v.c, v.r, call{method: http.MethodGet, path: "/api/v1/products/" + id})
	})
}

// nameOf is the name of a sale's item, or its SKU when the catalogue does not say.
func (v *visit) nameOf(saleID, sku string) string {
	s, err := v.sale(saleID)
	if err != nil {
		return sku
	}
	for _, i := range s.Items {
		if i.SKU != sku {
			continue
		}
		if p, err := v.product(i.Product); err == nil {
			return p.Name
		}
	}
	return sku
}

const maxParallel = 8

// each runs do for 0 to n-1, a few at a time, and returns when all are done.
func each(n int, do func(int)) {
	var all sync.WaitGroup
	slots := make(chan struct{}, maxParallel)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	all.Wait()
}

// cursor takes a parameter out of an answer's link to the next page.
func cursor(next, name string) string {
	u, err := url.Parse(next)
	if err != nil {
		return ""
	}
	return u.Query().Get(name)
}

// refusal returns the problem in an error, nil when there is none.
func refusal(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	return nil
}
