package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flashsale/audit"
	"flashsale/bench/journey"
	"flashsale/bench/testbed"
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

// World is a shop of its own: databases, a gate, and service instances on them.
type World struct {
	lab       *Lab
	Name      string
	shards    []string // Redis URLs
	redis     []*testbed.Process
	Books     *pgxpool.Pool // the inventory's database, to look at the books
	gate      *redisstock.Gate
	Instances []*instance
	Used      bool     // something was reserved here, so it is audited
	Roles     string   // of the audit; empty for all
	More      []string // settings beside the defaults, NAME=value
}

// instance is one process of the service.
type instance struct {
	*testbed.Process
	Port int
}

func (i *instance) Base() string { return "http://127.0.0.1:" + strconv.Itoa(i.Port) }

func databaseNames() []string {
	return []string{"inventory", "orders", "payments", "catalog", "accounts", "notifications"}
}

// NewWorld makes the databases of a shop and migrates them with the program.
func (l *Lab) NewWorld(ctx context.Context, name string, redis []int) (*World, error) {
	w := &World{lab: l, Name: name}
	for _, n := range redis {
		w.shards, w.redis = append(w.shards, l.RedisURL[n]), append(w.redis, l.Redis[n])
	}
	l.worlds = append(l.worlds, w)
	var create []string
	for _, d := range databaseNames() {
		create = append(create, `CREATE DATABASE "`+name+"_"+d+`"`)
	}
	if err := l.Postgres.SQL(ctx, "postgres", create...); err != nil {
		return nil, err
	}
	if _, _, err := testbed.Output(ctx, w.env(), nil, filepath.Join(l.Dir, "flashsale"), "migrate"); err != nil {
		return nil, err
	}
	var err error
	if w.Books, err = pgxpool.New(ctx, l.Postgres.URL(name+"_inventory")); err != nil {
		return nil, err
	}
	w.gate, err = redisstock.Open(ctx, w.shards, redisstock.Options{})
	return w, err
}

// env is the service's configuration: its defaults, but for names, addresses and secrets, for a
// life of access tokens that outlasts the run, and for the bounds on one shopper.
func (w *World) env() []string {
	return append(append(testbed.BaseEnv(),
		"DATABASE_URL="+w.lab.Postgres.URL(w.Name+"_{database}"), "REDIS_URLS="+strings.Join(w.shards, ","), "TOKEN_SECRETS="+w.lab.secret,
		"OPERATOR_PASSWORD="+w.lab.Password, "FLASHSALE_ACCESS_TTL="+tokenTTL.String(), "FLASHSALE_LOG_LEVEL=warn",
		"FLASHSALE_MAX_UNPAID=1000000", "FLASHSALE_SHOPPER_RATE=1000000", // counted, but not bounded
	), w.More...)
}

// Start adds an instance. Port 0 is any.
func (w *World) Start(ctx context.Context, port int) (*instance, error) {
	if port == 0 {
		var err error
		if port, err = testbed.FreePort(ctx); err != nil {
			return nil, err
		}
	}
	name := fmt.Sprintf("flashsale-%s-%d", w.Name, len(w.Instances))
	p, err := testbed.Spawn(ctx, w.lab.Dir, name, syscall.SIGTERM, append(w.env(), "FLASHSALE_LISTEN=127.0.0.1:"+strconv.Itoa(port)), nil,
		filepath.Join(w.lab.Dir, "flashsale"), "serve")
	if err != nil {
		return nil, err
	}
	i := &instance{Process: p, Port: port}
	w.Instances = append(w.Instances, i)
	return i, i.Ready(ctx, 2*time.Minute, testbed.Answers(i.Base()+"/readyz"))
}

// StopFrom stops the instances after the first n.
func (w *World) StopFrom(n int) {
	for _, i := range w.Instances[min(n, len(w.Instances)):] {
		i.Stop(syscall.SIGTERM)
	}
	w.Instances = w.Instances[:min(n, len(w.Instances))]
}

func (w *World) close() {
	w.StopFrom(0)
	if w.gate != nil {
		w.gate.Close()
	}
	if w.Books != nil {
		w.Books.Close()
	}
}

// Pause and resume tell all instances.
func (w *World) Pause() error {
	var errs []error
	for _, i := range w.Instances {
		errs = append(errs, i.Pause())
	}
	return errors.Join(errs...)
}

// Resume lets all instances go on.
func (w *World) Resume() error {
	var errs []error
	for _, i := range w.Instances {
		errs = append(errs, i.Resume())
	}
	return errors.Join(errs...)
}

// Goods are sale items to ask for, all with texts of the same length.
type Goods struct {
	sales []string
	Items []item
	total int64 // units
}

type item struct{ Sale, Sku string }

// Sale is the id of the only sale.
func (g Goods) Sale() string { return g.sales[0] }

// Bodies are the requests for them.
func (g Goods) Bodies() []string {
	out := make([]string, len(g.Items))
	for i, it := range g.Items {
		out[i] = fmt.Sprintf(`{"sale_id":"%s","sku":"%s","quantity":1}`, it.Sale, it.Sku)
	}
	return out
}

const (
	// MaxStock is the most units that one sale item may have.
	MaxStock = 10_000_000
	perSale  = 100 // items of one sale: more do not fit into a request's body
	holdFor  = 24 * time.Hour
)

// Sale opens a sale of one item through the public API.
func (w *World) Sale(ctx context.Context, stock int64) (Goods, error) {
	s, err := journey.OpenSale(ctx, journey.Crowd{
		Base: w.Instances[0].Base(), Operator: "operator@example.com", Password: w.lab.Password, Stock: stock, Limit: 1000, Hold: holdFor, Client: client,
	})
	if err != nil {
		return Goods{}, fmt.Errorf("open a sale: %w", err)
	}
	return Goods{sales: []string{s.ID}, Items: []item{{s.ID, s.SKU}}, total: stock}, nil
}

// ManySales opens sales with this many items in all through the public API, as the operator.
func (w *World) ManySales(ctx context.Context, items int) (Goods, error) {
	base := w.Instances[0].Base() + "/api/v1"
	var login struct {
		Token string `json:"access_token"`
	}
	if err := Post(ctx, base+"/auth/login", "", map[string]any{"email": "operator@example.com", "password": w.lab.Password}, &login); err != nil {
		return Goods{}, err
	}
	price := map[string]any{"amount": 1990, "currency": "EUR"}
	g := Goods{total: int64(items) * MaxStock}
	skus := make([]string, items)
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for worker := range errs {
		wg.Go(func() {
			for i := worker; i < items && errs[worker] == nil; i += len(errs) {
				skus[i] = fmt.Sprintf("ITEM-%06d", i)
				errs[worker] = Post(ctx, base+"/admin/products", login.Token, map[string]any{
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
			list = append(list, map[string]any{"sku": sku, "unit_price": price, "stock": MaxStock})
		}
		var sale struct {
			ID string `json:"id"`
		}
		if err := Post(ctx, base+"/admin/sales", login.Token, map[string]any{
			"name": "Many items", "opens_at": now.Add(-time.Minute).Format(time.RFC3339), "ends_at": now.Add(24 * time.Hour).Format(time.RFC3339),
			"per_user_limit": 1000, "hold_seconds": int(holdFor.Seconds()), "items": list,
		}, &sale); err != nil {
			return g, err
		}
		if err := Post(ctx, base+"/admin/sales/"+sale.ID+"/open", login.Token, nil, nil); err != nil {
			return g, err
		}
		g.sales = append(g.sales, sale.ID)
		for _, sku := range part {
			g.Items = append(g.Items, item{sale.ID, sku})
		}
		w.lab.Say.Step("items on sale: %d of %d", len(g.Items), items)
	}
	return g, w.stocked(ctx, g)
}

// stocked waits until the gate has all units of the goods: the event that brings them may come late.
func (w *World) stocked(ctx context.Context, g Goods) error {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		b, err := w.Balance(ctx, g)
		switch {
		case err != nil:
			return err
		case b.Granted == g.total && b.Available == g.total:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("of %d units the ledger has %d and the gate %d after two minutes", g.total, b.Granted, b.Available)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Balance is where the units of goods are: by the ledger, and by the gate.
type Balance struct {
	Granted, Held, Sold int64
	Available, Pending  int64
}

// Balance returns where the units of goods are now.
func (w *World) Balance(ctx context.Context, g Goods) (Balance, error) {
	var b Balance
	rows, err := w.Books.Query(ctx, `SELECT sale, sku, shard, granted, held, sold FROM bucket WHERE sale = ANY($1::uuid[])`, g.sales)
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
		b.Granted, b.Held, b.Sold = b.Granted+granted, b.Held+held, b.Sold+sold
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
			b.Available, b.Pending = b.Available+l.Available, b.Pending+l.Pending
		}
	}
	return b, nil
}

// Settled returns the balance once no take is on its way, or after ten seconds as it is then.
func (w *World) Settled(ctx context.Context, g Goods) (Balance, error) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		b, err := w.Balance(ctx, g)
		if err != nil || b.Pending == 0 && b.Available == b.Granted-b.Held-b.Sold || time.Now().After(deadline) {
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
func (w *World) audit(ctx context.Context) ([]audit.Check, error) {
	args := []string{"audit", "--json", "--settle", "30s"}
	if w.Roles != "" {
		args = append(args, "--roles="+w.Roles)
	}
	text, _, failed := testbed.Output(ctx, w.env(), nil, filepath.Join(w.lab.Dir, "flashsale"), args...)
	var checks []audit.Check
	if err := json.Unmarshal([]byte(text), &checks); err != nil {
		return nil, errors.Join(failed, fmt.Errorf("the audit of %s is not readable: %w", w.Name, err))
	}
	return checks, nil // a failed audit is in the checks
}

// Call sends one request and returns the answer.
func Call(ctx context.Context, method, url, token string, header map[string]string, body []byte) (int, []byte, error) {
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

// Post sends JSON and reads JSON; anything but a success is an error.
func Post(ctx context.Context, url, token string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	status, answer, err := Call(ctx, http.MethodPost, url, token, map[string]string{"Idempotency-Key": id.New(time.Now()).String()}, body)
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

// Checkpoint writes out what PostgreSQL owes to the disk, outside of any measurement.
func (l *Lab) Checkpoint(ctx context.Context) error {
	return l.Postgres.SQL(ctx, "postgres", "CHECKPOINT")
}

// round writes the files that reserve.lua reads.
func (l *Lab) round(name string, bodies []string) error {
	for _, b := range bodies {
		if len(b) != len(bodies[0]) {
			return fmt.Errorf("the bodies of a round must have one length: %q, %q", bodies[0], b)
		}
	}
	head := "POST /api/v1/reservations HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(len(bodies[0])) + "\r\nAuthorization: Bearer "
	if err := os.WriteFile(filepath.Join(l.Dir, name+".head"), []byte(head), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.Dir, name+".bodies"), []byte(strings.Join(bodies, "\n")+"\n"), 0o600)
}
