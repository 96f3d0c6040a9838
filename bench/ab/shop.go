package ab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flashsale/bench/journey"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// shop is the public API of a system, as the runner uses it beside k6: it makes accounts and sales, and looks up
// what became of the reservations.
type shop struct {
	base     string
	operator string // e-mail address
	password string // the operator's
	client   *http.Client
}

const shopperPassword = "correct horse battery"

func newShop(base, operator, password string) *shop {
	return &shop{base: base, operator: operator, password: password, client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		MaxIdleConns: 32, MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second,
	}}}
}

func (s *shop) close() { s.client.CloseIdleConnections() }

// call sends a request and reads the answer. in and out may be nil.
func (s *shop) call(ctx context.Context, method, path, token string, in, out any) (int, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, body)
	if err != nil {
		return 0, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return resp.StatusCode, err
	}
	if resp.StatusCode >= 300 {
		return resp.StatusCode, fmt.Errorf("%s %s%s: %d %.300s", method, s.base, path, resp.StatusCode, b)
	}
	if out == nil {
		return resp.StatusCode, nil
	}
	return resp.StatusCode, json.Unmarshal(b, out)
}

// register makes the accounts of n shoppers, few at a time: each costs a password hash. One that is there stays.
func (s *shop) register(ctx context.Context, prefix string, n int, made func(int)) error {
	next := make(chan int)
	errs := make([]error, 4)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for i := range next {
				errs[w] = s.account(ctx, fmt.Sprintf("%s%d@example.com", prefix, i))
				if errs[w] != nil {
					cancel()
					return
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
			made(i)
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

func (s *shop) account(ctx context.Context, email string) error {
	for {
		status, err := s.call(ctx, http.MethodPost, "/api/v1/auth/register", "", map[string]string{"email": email, "password": shopperPassword}, nil)
		switch {
		case err == nil || status == http.StatusConflict:
			return nil
		case status != http.StatusServiceUnavailable && status != http.StatusTooManyRequests:
			return fmt.Errorf("account %s: %w", email, err)
		}
		select { // too many hashes at the moment
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// goods is what is on sale in a run.
type goods struct {
	journey.Sale
	stock int64
}

// The sale of a run: nobody may run dry, or the end would measure refusals.
const (
	stockOfRun = 5_000_000
	limitOfRun = 1000 // units per shopper: the most that there is
	holdOfRun  = 30 * time.Minute
)

func (s *shop) open(ctx context.Context) (goods, error) {
	sale, err := journey.OpenSale(ctx, journey.Crowd{
		Base: s.base, Operator: s.operator, Password: s.password, Stock: stockOfRun, Limit: limitOfRun, Hold: holdOfRun, Client: s.client, Decide: time.Minute,
	})
	if err != nil {
		return goods{}, fmt.Errorf("open a sale at %s (is the operator's password right?): %w", s.base, err)
	}
	return goods{sale, stockOfRun}, nil
}

// told is what the journey's own log says: whom which reservations were promised, and which orders were seen confirmed.
type told struct {
	tokens    map[string]string // shopper → access token
	reserved  map[string][]string
	confirmed map[string]bool
}

func readLog(path string) (told, error) {
	t := told{tokens: map[string]string{}, reserved: map[string][]string{}, confirmed: map[string]bool{}}
	f, err := os.Open(path)
	if err != nil {
		return t, err
	}
	defer func() { _ = f.Close() }()
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		word := strings.Fields(scan.Text())
		if len(word) != 3 {
			continue // something that k6 says itself
		}
		switch word[0] {
		case "token":
			t.tokens[word[1]] = word[2]
		case "reserved":
			t.reserved[word[1]] = append(t.reserved[word[1]], word[2])
		case "confirmed":
			t.confirmed[word[2]] = true
		}
	}
	return t, scan.Err()
}

func (t told) count() (n int64) {
	for _, ids := range t.reserved {
		n += int64(len(ids))
	}
	return n
}

// lost counts the reservations of the log that are not there: every shopper's orders are listed with their own token. An
// order carries its reservation's id, and the audit has found that both are in the same state.
func (s *shop) lost(ctx context.Context, t told) (int64, error) {
	type result struct {
		lost int64
		err  error
	}
	results := make(chan result)
	slots := make(chan struct{}, 8)
	for shopper, ids := range t.reserved {
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			states, err := s.orders(ctx, t.tokens[shopper])
			r := result{err: err}
			for _, id := range ids {
				state, there := states[id]
				if !there || t.confirmed[id] && state != "confirmed" {
					r.lost++
				}
			}
			results <- r
		}()
	}
	var sum int64
	var errs []error
	for range t.reserved {
		r := <-results
		sum += r.lost
		errs = append(errs, r.err)
	}
	return sum, errors.Join(errs...)
}

// orders returns the state of each of a shopper's orders.
func (s *shop) orders(ctx context.Context, token string) (map[string]string, error) {
	states := map[string]string{}
	for path := "/api/v1/orders?limit=100"; path != ""; {
		var page struct {
			Next   string `json:"next"`
			Orders []struct {
				ID    string `json:"id"`
				State string `json:"state"`
			} `json:"orders"`
		}
		if _, err := s.call(ctx, http.MethodGet, path, token, nil, &page); err != nil {
			return states, err
		}
		for _, o := range page.Orders {
			states[o.ID] = o.State
		}
		path = page.Next
	}
	return states, nil
}

// stock reads what became of the units of a sale: sold, held and available as the ledger and the gate have them.
func (s *shop) stock(ctx context.Context, g goods) (Stock, error) {
	var sale struct {
		Items []struct {
			Stock     int64  `json:"stock"`
			Available *int64 `json:"available"`
			Held      *int64 `json:"held"`
			Sold      *int64 `json:"sold"`
		} `json:"items"`
	}
	if _, err := s.call(ctx, http.MethodGet, "/api/v1/sales/"+g.ID, "", nil, &sale); err != nil {
		return Stock{}, err
	}
	if len(sale.Items) != 1 || sale.Items[0].Available == nil || sale.Items[0].Held == nil || sale.Items[0].Sold == nil {
		return Stock{}, fmt.Errorf("%s tells no live stock of the sale %s", s.base, g.ID)
	}
	i := sale.Items[0]
	return balance(g.stock, i.Stock, *i.Available, *i.Held, *i.Sold), nil
}

// settled is stock once it shows what was acknowledged, or as it is when patience is over: a shop may tell live stock that
// is a moment old.
func (s *shop) settled(ctx context.Context, g goods, acknowledged int64, patience time.Duration) (Stock, error) {
	for deadline := time.Now().Add(patience); ; {
		got, err := s.stock(ctx, g)
		if err != nil || got.Sold+got.Held >= acknowledged || time.Now().After(deadline) {
			return got, err
		}
		select {
		case <-ctx.Done():
			return got, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// balance holds what is told of a sale's units against what was put on sale.
func balance(put, stock, available, held, sold int64) Stock {
	return Stock{Sold: sold, Held: held, Oversold: max(0, sold+held-put, available+sold+held-put), Stranded: max(0, min(stock, put)-available-held-sold)}
}
