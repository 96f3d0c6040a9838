//go:build faults

// Package faults kills, stops, floods and confuses whole systems: real processes on real servers, in
// the middle of a sale. It has no code of its own, only tests.
package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flashsale/bench/journey"
	"flashsale/testenv"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/jackc/pgx/v5"
)

const (
	operator = "operator@example.com"
	password = "an operator's password"
)

// binary builds the program once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "flashsale-faults-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "flashsale")
	if out, err := exec.Command("go", "build", "-o", path, "flashsale/cmd/flashsale").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	toxics.Register(troubleName, new(trouble))
	code := m.Run()
	if err := results.publish(); err != nil {
		fmt.Fprintln(os.Stderr, "the report cannot be written:", err)
		code = max(code, 1)
	}
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// system is the servers of one installation, and the settings of every process on them.
type system struct {
	t      *testing.T
	bin    string
	amqp   string
	books  string // the inventory's database
	orders string // the order service's database
	known  []buyer
	wrong  []string // what blame has said since the cell began
	env    []string
	stderr io.Writer // of the processes
	client *http.Client
}

// newSystem makes databases, shards and settings on a broker.
func newSystem(t *testing.T, amqpURL string) *system {
	t.Helper()
	var urls []string
	for _, name := range databases() {
		urls = append(urls, name+"="+testenv.Postgres(t))
	}
	return systemOn(t, urls, testenv.Redis(t, 2), amqpURL)
}

func databases() []string {
	return []string{"inventory", "orders", "payments", "catalog", "accounts", "notifications"}
}

// systemOn makes settings on databases, name=URL, on shards and a broker.
func systemOn(t *testing.T, urls, shards []string, amqpURL string) *system {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	_, books, _ := strings.Cut(urls[0], "=")
	_, orders, _ := strings.Cut(urls[1], "=")
	s := &system{t: t, stderr: t.Output(), bin: bin, amqp: amqpURL, books: books, orders: orders, client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
	t.Cleanup(s.client.CloseIdleConnections)
	s.env = append(os.Environ(),
		"DATABASE_URLS="+strings.Join(urls, ","), "REDIS_URLS="+strings.Join(shards, ","), "AMQP_URL="+amqpURL,
		"TOKEN_SECRETS="+strings.Repeat("secret of the test ", 3), "OPERATOR_PASSWORD="+password, "FLASHSALE_INTERNAL_TOKEN="+strings.Repeat("internal-token-", 3),
		"FLASHSALE_DATABASE_CONNS=4", "FLASHSALE_LOG_LEVEL=error", "FLASHSALE_DRAIN_NOTICE=0s", "FLASHSALE_PASSWORD_SLOTS=8",
		"FLASHSALE_ACCESS_TTL=6h", "FLASHSALE_MAX_UNPAID=1000000", "FLASHSALE_SHOPPER_RATE=1000000",
		"FLASHSALE_PAYMENT_LATENCY=10ms", "FLASHSALE_PAYMENT_PATIENCE=400ms", "FLASHSALE_PROBE_AFTER=800ms", "FLASHSALE_PAYMENT_LOST_REPLY_RATE=0.05",
		"FLASHSALE_PENDING_FOR=2s", "FLASHSALE_SWEEP_AFTER=3s", "FLASHSALE_EXPIRE_EVERY=50ms", "FLASHSALE_KEEP_EVERY=50ms",
	)
	s.command("migrate")
	return s
}

// command runs the program to its end and returns what it printed. It must end well.
func (s *system) command(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.bin, args...)
	cmd.Env = s.env
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("flashsale %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return string(out)
}

// count asks the inventory's database.
func (s *system) count(query string) (n int) {
	s.t.Helper()
	c, err := pgx.Connect(s.t.Context(), s.books)
	must(s.t, err)
	defer func() { _ = c.Close(s.t.Context()) }()
	must(s.t, c.QueryRow(s.t.Context(), query).Scan(&n))
	return n
}

// audit holds the books of the running system against each other, until they agree: nothing may be on
// its way, and the sweeps have their turn. letters is how many dead letters there should be.
func (s *system) audit(letters int) {
	s.t.Helper()
	s.auditIn("async", letters)
}

func (s *system) auditIn(mode string, letters int) {
	s.t.Helper()
	var wrong string
	for giveUp := time.Now().Add(45 * time.Second); ; {
		cmd := exec.CommandContext(s.t.Context(), s.bin, "audit", "--mode="+mode, "--settle=3s", "--json")
		cmd.Env = s.env
		out, err := cmd.Output()
		var checks []struct {
			Equation      int
			Name, Figures string
			OK            bool
		}
		if jerr := json.Unmarshal(out, &checks); jerr != nil || len(checks) < 18 {
			s.blame("audit: %v, %v\n%s", err, jerr, out)
			s.t.FailNow()
		}
		wrong = ""
		for _, c := range checks {
			ok := c.OK
			if c.Equation == 9 {
				ok = strings.HasSuffix(c.Figures, fmt.Sprintf("waiting 0, dead letters %d", letters))
			}
			if !ok {
				wrong += fmt.Sprintf("\naudit %d. %s: %s", c.Equation, c.Name, c.Figures)
			}
		}
		if wrong == "" {
			return
		}
		if time.Now().After(giveUp) {
			s.blame("the books do not agree:%s", wrong)
			s.t.FailNow()
		}
	}
}

// process is one flashsale serve.
type process struct {
	s        *system
	name     string
	args     []string
	url      string
	internal string
	cmd      *exec.Cmd
}

// process prepares one; roles "" are all of them.
func (s *system) process(mode, roles string, args ...string) *process {
	s.t.Helper()
	addr := func() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(s.t))) }
	p := &process{s: s, name: mode + " " + roles, internal: addr()}
	listen := addr()
	p.url = "http://" + listen
	p.args = append([]string{"serve", "--mode=" + mode, "--listen=" + listen, "--internal-listen=" + p.internal}, args...)
	if roles != "" {
		p.args = append(p.args, "--roles="+roles)
	}
	s.t.Cleanup(func() {
		if p.cmd != nil {
			p.end(syscall.SIGTERM)
		}
	})
	return p
}

// asking has a process ask another one for everything that it does not run itself.
func (p *process) asking(other *process) *process {
	var peers []string
	for _, role := range []string{"reservation", "inventory", "order", "payment", "catalog", "account", "notification"} {
		peers = append(peers, role+"=http://"+other.internal)
	}
	p.args = append(p.args, "--peers="+strings.Join(peers, ","))
	return p
}

// start starts the process and waits until it is ready.
func (p *process) start() *process {
	p.s.t.Helper()
	p.launch()
	return p.ready()
}

// ready waits until the process is ready.
func (p *process) ready() *process {
	p.s.t.Helper()
	p.s.until("the process "+p.name+" is ready", 60*time.Second, func() bool {
		resp, err := p.s.client.Get(p.url + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// launch starts the process.
func (p *process) launch() {
	p.s.t.Helper()
	p.cmd = exec.Command(p.s.bin, p.args...)
	p.cmd.Env, p.cmd.Stderr = p.s.env, p.s.stderr
	if err := p.cmd.Start(); err != nil {
		p.s.t.Fatal(err)
	}
}

// endBound is how long a process may take to end: what it drains for, and what is under way at most.
const endBound = 45 * time.Second

// end sends a signal and waits for the process to be gone.
func (p *process) end(sig syscall.Signal) {
	p.s.t.Helper()
	cmd := p.cmd
	p.cmd = nil
	p.s.client.CloseIdleConnections()
	_ = cmd.Process.Signal(sig)
	late := time.AfterFunc(endBound, func() {
		p.s.t.Errorf("%s has not ended %s after %s; it is killed", p.name, endBound, sig)
		_ = cmd.Process.Kill()
	})
	err := cmd.Wait()
	late.Stop()
	var exit *exec.ExitError
	if err != nil && (sig != syscall.SIGKILL || !errors.As(err, &exit)) {
		p.s.blame("%s after %s: %v", p.name, sig, err)
	}
}

// blame fails the test, and remembers why for the report.
func (s *system) blame(format string, args ...any) {
	s.t.Helper()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
	s.t.Error(s.wrong[len(s.wrong)-1])
}

// until waits until something is so.
func (s *system) until(what string, bound time.Duration, so func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), bound)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			s.blame("after %s it is still not so that %s", bound, what)
			s.t.FailNow()
		case <-tick.C:
		}
	}
}

// person is somebody with a token.
type person struct {
	s           *system
	base, token string
}

type said struct {
	status int
	header http.Header
	body   map[string]any
	took   time.Duration
}

func (p person) do(method, path string, body any, headers ...string) said {
	p.s.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		p.s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(p.s.t.Context(), method, p.base+path, bytes.NewReader(b))
	if err != nil {
		p.s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	began := time.Now()
	resp, err := p.s.client.Do(req)
	if err != nil {
		return said{body: map[string]any{"error": err.Error()}, took: time.Since(began)}
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.s.t.Fatal(err)
	}
	out := said{status: resp.StatusCode, header: resp.Header, took: time.Since(began)}
	_ = json.Unmarshal(text, &out.body)
	return out
}

// login registers somebody, or the operator, and logs in.
func (s *system) login(base, email string) person {
	s.t.Helper()
	p := person{s: s, base: base}
	who := map[string]string{"email": email, "password": password}
	if email != operator {
		if r := p.do("POST", "/api/v1/auth/register", who); r.status != http.StatusCreated {
			s.t.Fatalf("register: %d %v", r.status, r.body)
		}
	}
	r := p.do("POST", "/api/v1/auth/login", who)
	if r.status != http.StatusOK {
		s.t.Fatalf("login: %d %v", r.status, r.body)
	}
	p.token = r.body["access_token"].(string)
	return p
}

// held waits until accepted requests are decided for the shopper, every one.
func (p person) held(accepted []string) {
	p.s.t.Helper()
	for _, id := range accepted {
		p.s.until("the accepted request "+id+" is held", 45*time.Second, func() bool {
			return p.do("GET", "/api/v1/reservations/"+id, nil).body["state"] == "held"
		})
	}
}

// ask8 sends requests for a unit each, eight at a time, and returns the ids of those that were accepted
// and how many were shed. Any other answer is a mistake, and so is one that takes long.
func (p person) ask8(sale journey.Sale, key string, requests int) (accepted []string, shed int) {
	p.s.t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for n := range requests / 8 {
				r := p.do("POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", fmt.Sprintf("%s-%d-%d", key, worker, n))
				mu.Lock()
				switch {
				case r.took > 12*time.Second:
					p.s.t.Errorf("answered after %s: %d %v", r.took, r.status, r.body)
				case r.status == http.StatusAccepted && r.header.Get("Location") != "":
					accepted = append(accepted, fmt.Sprint(r.body["id"]))
				case r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") != "":
					shed++
				default:
					p.s.t.Errorf("reserve: %d %v %v", r.status, r.header, r.body)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	p.s.t.Logf("accepted %d, shed %d", len(accepted), shed)
	return accepted, shed
}

// sale opens a sale for a shopper of whom it is known already.
func (s *system) sale(base string, stock int64, hold time.Duration) (person, journey.Sale) {
	s.t.Helper()
	sale, err := journey.OpenSale(s.t.Context(), journey.Crowd{
		Base: base, Operator: operator, Password: password, Stock: stock, Units: 1, Limit: int(stock), Hold: hold, Client: s.client,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ann := s.login(base, "ann@example.com")
	r := ann.do("POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", "first", "Prefer", "wait=10")
	if r.status != http.StatusCreated {
		s.t.Fatalf("reserve: %d %v", r.status, r.body)
	}
	return ann, sale
}

// wants is the body of a reservation of one unit.
func wants(sale journey.Sale) map[string]any {
	return map[string]any{"sale_id": sale.ID, "sku": sale.SKU, "quantity": 1}
}

// vhost is the path of an AMQP URL, for the management API.
func vhost(amqpURL string) string {
	name := amqpURL[strings.LastIndex(amqpURL, "/")+1:]
	if name == "" {
		return "%2F"
	}
	return name
}
