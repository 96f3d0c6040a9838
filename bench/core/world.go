package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flashsale/audit"
	"flashsale/bench/journey"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/redisstock"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// world is a shop of its own: databases, a gate, and service instances on them.
type world struct {
	lab       *lab
	name      string
	shards    []string // Redis URLs
	redis     []*process
	books     *pgxpool.Pool // the inventory's database, to look at the books
	gate      *redisstock.Gate
	instances []*instance
	used      bool   // something was reserved here, so it is audited
	roles     string // of the audit; empty for all
}

// instance is one process of the service.
type instance struct {
	*process
	port int
}

func (i *instance) base() string { return "http://127.0.0.1:" + strconv.Itoa(i.port) }

func databaseNames() []string {
	return []string{"inventory", "orders", "payments", "catalog", "accounts", "notifications"}
}

// newWorld makes the databases of a shop and migrates them with the program.
func (l *lab) newWorld(ctx context.Context, name string, redis []int) (*world, error) {
	w := &world{lab: l, name: name}
	for _, n := range redis {
		w.shards, w.redis = append(w.shards, l.redisURL[n]), append(w.redis, l.redis[n])
	}
	l.worlds = append(l.worlds, w)
	var create []string
	for _, d := range databaseNames() {
		create = append(create, `CREATE DATABASE "`+name+"_"+d+`"`)
	}
	if err := l.sql(ctx, "postgres", create...); err != nil {
		return nil, err
	}
	if _, _, err := output(ctx, w.env(), nil, filepath.Join(l.dir, "flashsale"), "migrate"); err != nil {
		return nil, err
	}
	var err error
	if w.books, err = pgxpool.New(ctx, l.databaseURL(name+"_inventory")); err != nil {
		return nil, err
	}
	w.gate, err = redisstock.Open(ctx, w.shards, redisstock.Options{})
	return w, err
}

// env is the service's configuration: its defaults, but for names, addresses and secrets, and for a
// life of access tokens that outlasts the run.
func (w *world) env() []string {
	return append(baseEnv(),
		"DATABASE_URL="+w.lab.databaseURL(w.name+"_{database}"), "REDIS_URLS="+strings.Join(w.shards, ","), "TOKEN_SECRETS="+w.lab.secret,
		"OPERATOR_PASSWORD="+w.lab.password, "FLASHSALE_ACCESS_TTL="+tokenTTL.String(), "FLASHSALE_LOG_LEVEL=warn",
	)
}

// start adds an instance. Port 0 is any.
func (w *world) start(ctx context.Context, port int) (*instance, error) {
	if port == 0 {
		var err error
		if port, err = freePort(ctx); err != nil {
			return nil, err
		}
	}
	name := fmt.Sprintf("flashsale-%s-%d", w.name, len(w.instances))
	p, err := spawn(ctx, w.lab.dir, name, syscall.SIGTERM, append(w.env(), "FLASHSALE_LISTEN=127.0.0.1:"+strconv.Itoa(port)), nil,
		filepath.Join(w.lab.dir, "flashsale"), "serve")
	if err != nil {
		return nil, err
	}
	i := &instance{process: p, port: port}
	w.instances = append(w.instances, i)
	return i, i.ready(ctx, 2*time.Minute, func(ctx context.Context) error {
		status, _, err := call(ctx, http.MethodGet, i.base()+"/readyz", "", nil, nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("readyz answers %d", status)
		}
		return err
	})
}

// stopFrom stops the instances after the first n.
func (w *world) stopFrom(n int) {
	for _, i := range w.instances[min(n, len(w.instances)):] {
		i.stop(syscall.SIGTERM)
	}
	w.instances = w.instances[:min(n, len(w.instances))]
}

func (w *world) close() {
	w.stopFrom(0)
	if w.gate != nil {
		w.gate.Close()
	}
	if w.books != nil {
		w.books.Close()
	}
}

// pause and resume tell all instances.
func (w *world) pause() error {
	var errs []error
	for _, i := range w.instances {
		errs = append(errs, i.pause())
	}
	return errors.Join(errs...)
}

func (w *world) resume() error {
	var errs []error
	for _, i := range w.instances {
		errs = append(errs, i.resume())
	}
	return errors.Join(errs...)
}

// goods are sale items to ask for, all with texts of the same length.
type goods struct {
	sales []string
	items []item
	total int64 // units
}

type item struct{ sale, sku string }

func (g goods) bodies() []string {
	out := make([]string, len(g.items))
	for i, it := range g.items {
		out[i] = fmt.Sprintf(`{"sale_id":"%s","sku":"%s","quantity":1}`, it.sale, it.sku)
	}
	return out
}

const (
	maxStock = 10_000_000 // that one sale item may have
	perSale  = 100        // items of one sale: more do not fit into a request's body
	holdFor  = 24 * time.Hour
)

// sale opens a sale of one item through the public API.
func (w *world) sale(ctx context.Context, stock int64) (goods, error) {
	s, err := journey.OpenSale(ctx, journey.Crowd{
		Base: w.instances[0].base(), Operator: "operator@example.com", Password: w.lab.password, Stock: stock, Limit: 1000, Hold: holdFor, Client: client,
	})
	if err != nil {
		return goods{}, fmt.Errorf("open a sale: %w", err)
	}
	return goods{sales: []string{s.ID}, items: []item{{s.ID, s.SKU}}, total: stock}, nil
}

// manySales opens sales with this many items in all through the public API, as the operator.
func (w *world) manySales(ctx context.Context, items int) (goods, error) {
	base := w.instances[0].base() + "/api/v1"
	var login struct {
		Token string `json:"access_token"`
	}
	if err := post(ctx, base+"/auth/login", "", map[string]any{"email": "operator@example.com", "password": w.lab.password}, &login); err != nil {
		return goods{}, err
	}
	price := map[string]any{"amount": 1990, "currency": "EUR"}
	g := goods{total: int64(items) * maxStock}
	skus := make([]string, items)
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for worker := range errs {
		wg.Go(func() {
			for i := worker; i < items && errs[worker] == nil; i += len(errs) {
				skus[i] = fmt.Sprintf("ITEM-%06d", i)
				errs[worker] = post(ctx, base+"/admin/products", login.Token, map[string]any{
					"sku": skus[i], "name": "Item", "description": "", "category": "bench", "price": price,
				}, nil)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return g, err
	}
	now := time.Now().UTC()
	for part := range slices.Chunk(skus, perSale) {
		var list []map[string]any
		for _, sku := range part {
			list = append(list, map[string]any{"sku": sku, "unit_price": price, "stock": maxStock})
		}
		var sale struct {
			ID string `json:"id"`
		}
		if err := post(ctx, base+"/admin/sales", login.Token, map[string]any{
			"name": "Many items", "opens_at": now.Add(-time.Minute).Format(time.RFC3339), "ends_at": now.Add(24 * time.Hour).Format(time.RFC3339),
			"per_user_limit": 1000, "hold_seconds": int(holdFor.Seconds()), "items": list,
		}, &sale); err != nil {
			return g, err
		}
		if err := post(ctx, base+"/admin/sales/"+sale.ID+"/open", login.Token, nil, nil); err != nil {
			return g, err
		}
		g.sales = append(g.sales, sale.ID)
		for _, sku := range part {
			g.items = append(g.items, item{sale.ID, sku})
		}
		w.lab.say.step("items on sale: %d of %d", len(g.items), items)
	}
	return g, w.stocked(ctx, g)
}

// stocked waits until the gate has all units of the goods: the event that brings them may come late.
func (w *world) stocked(ctx context.Context, g goods) error {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		b, err := w.balance(ctx, g)
		switch {
		case err != nil:
			return err
		case b.granted == g.total && b.available == g.total:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("of %d units the ledger has %d and the gate %d after two minutes", g.total, b.granted, b.available)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// balance is where the units of goods are: by the ledger, and by the gate.
type balance struct {
	granted, held, sold int64
	available, pending  int64
}

func (w *world) balance(ctx context.Context, g goods) (balance, error) {
	var b balance
	rows, err := w.books.Query(ctx, `SELECT sale, sku, shard, granted, held, sold FROM bucket WHERE sale = ANY($1::uuid[])`, g.sales)
	if err != nil {
		return b, err
	}
	defer rows.Close()
	var ids []inventory.BucketID
	for rows.Next() {
		var v inventory.BucketID
		var granted, held, sold int64
		if err := rows.Scan(&v.Item.Sale, &v.Item.SKU, &v.Shard, &granted, &held, &sold); err != nil {
			return b, err
		}
		ids = append(ids, v)
		b.granted, b.held, b.sold = b.granted+granted, b.held+held, b.sold+sold
	}
	if err := rows.Err(); err != nil {
		return b, err
	}
	for part := range slices.Chunk(ids, 500) {
		levels, err := w.gate.Levels(ctx, part)
		if err != nil {
			return b, err
		}
		for _, l := range levels {
			b.available, b.pending = b.available+l.Available, b.pending+l.Pending
		}
	}
	return b, nil
}

// settled returns the balance once no take is on its way, or after ten seconds as it is then.
func (w *world) settled(ctx context.Context, g goods) (balance, error) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		b, err := w.balance(ctx, g)
		if err != nil || b.pending == 0 && b.available == b.granted-b.held-b.sold || time.Now().After(deadline) {
			return b, err
		}
		select {
		case <-ctx.Done():
			return b, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// audit runs the program's own audit on the world.
func (w *world) audit(ctx context.Context) ([]audit.Check, error) {
	args := []string{"audit", "--json", "--settle", "30s"}
	if w.roles != "" {
		args = append(args, "--roles="+w.roles)
	}
	text, _, failed := output(ctx, w.env(), nil, filepath.Join(w.lab.dir, "flashsale"), args...)
	var checks []audit.Check
	if err := json.Unmarshal([]byte(text), &checks); err != nil {
		return nil, errors.Join(failed, fmt.Errorf("the audit of %s is not readable: %w", w.name, err))
	}
	return checks, nil // a failed audit is in the checks
}

// call sends one request and returns the answer.
func call(ctx context.Context, method, url, token string, header map[string]string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	return resp.StatusCode, b, err
}

// post sends JSON and reads JSON; anything but a success is an error.
func post(ctx context.Context, url, token string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	status, answer, err := call(ctx, http.MethodPost, url, token, map[string]string{"Idempotency-Key": id.New(time.Now()).String()}, body)
	switch {
	case err != nil:
		return err
	case status < 200 || status > 299:
		return fmt.Errorf("POST %s: %d %s", url, status, answer)
	case out == nil:
		return nil
	}
	return json.Unmarshal(answer, out)
}

// checkpoint writes out what PostgreSQL owes to the disk, outside of any measurement.
func (l *lab) checkpoint(ctx context.Context) error { return l.sql(ctx, "postgres", "CHECKPOINT") }

// round writes the files that reserve.lua reads.
func (l *lab) round(name string, bodies []string) error {
	for _, b := range bodies {
		if len(b) != len(bodies[0]) {
			return fmt.Errorf("the bodies of a round must have one length: %q, %q", bodies[0], b)
		}
	}
	head := "POST /api/v1/reservations HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(len(bodies[0])) + "\r\nAuthorization: Bearer "
	if err := os.WriteFile(filepath.Join(l.dir, name+".head"), []byte(head), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.dir, name+".bodies"), []byte(strings.Join(bodies, "\n")+"\n"), 0o600)
}
