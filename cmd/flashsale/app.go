package main

import (
	"context"
	"errors"
	"flashsale/account"
	"flashsale/account/password"
	"flashsale/account/token"
	"flashsale/audit"
	"flashsale/catalog"
	"flashsale/catalog/memcache"
	"flashsale/catalog/rediscache"
	"flashsale/console"
	"flashsale/database/postgres"
	"flashsale/engine"
	"flashsale/httpapi"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/memstock"
	"flashsale/notification"
	"flashsale/notification/logchannel"
	"flashsale/notification/smtpchannel"
	"flashsale/notification/webhookchannel"
	"flashsale/payment"
	"flashsale/payment/simprovider"
	"flashsale/telemetry/metrics"
	"flashsale/telemetry/tracing"
	"flashsale/transport"
	"flashsale/transport/inproc"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// app is a process: the roles of its configuration, wired.
type app struct {
	cfg    Config
	log    *slog.Logger
	clock  func() time.Time
	fail   sabotage // nothing, but in test builds
	stores *stores
	wires  *wiring
	trace  *tracing.Tracer // nil: off
	flow   *engine.Flow
	finish func(context.Context) // what still follows from answered requests
	gate   engine.GateKeeper
	keeper *engine.Keeper
	audit  engine.Audit

	api      *httpapi.API
	tokens   *token.Tokens
	accounts *account.Service
	catalog  *catalog.Service

	loops   []func(context.Context) error // run until the process stops
	closers []func()                      // run at the end, the last first
	listen  net.Listener
	admin   net.Listener     // of the metrics; nil without them
	metrics *metrics.Metrics // nil when nobody can read them
	failed  chan error
	cancel  context.CancelFunc
	running sync.WaitGroup
	once    sync.Once
}

// start builds the process and lets it serve.
func start(ctx context.Context, cfg Config, log *slog.Logger) (*app, error) {
	a, err := build(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	if err := a.run(ctx); err != nil {
		a.closeAll()
		return nil, err
	}
	return a, nil
}

// build opens what the roles need and wires it, without serving or sending anything.
func build(ctx context.Context, cfg Config, log *slog.Logger) (_ *app, err error) {
	fail, err := openSabotage()
	if err != nil {
		return nil, err
	}
	a := &app{cfg: cfg, log: log, clock: fail.clock(), fail: fail, failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			a.closeAll()
		}
	}()
	if cfg.embedded() {
		if err := a.embed(); err != nil {
			return nil, err
		}
	}
	if err := a.measure(ctx); err != nil {
		return nil, err
	}
	if err := a.openTracing(ctx); err != nil {
		return nil, err
	}
	if a.stores, err = openStores(ctx, a.cfg, a.clock, a.metrics); err != nil {
		return nil, err
	}
	a.closers = append(a.closers, a.stores.closeAll)
	a.fail.stores(a.stores)
	if err := a.openGate(ctx); err != nil {
		return nil, err
	}
	if err := a.openTransport(ctx); err != nil {
		return nil, err
	}
	a.flow = engine.NewFlow(a.wires.events, stepBound, log)
	a.audit = engine.Audit{Outboxes: map[transport.Service]transport.Outbox{}, Clock: a.clock}
	if a.wires.queue != nil {
		a.audit.Queues = a.wires.queue
	}
	a.tokens, err = token.New(a.cfg.TokenSecrets, cfg.AccessTTL, a.clock)
	if err != nil {
		return nil, err
	}
	var observe func(string, string, int, time.Duration)
	if a.metrics != nil {
		observe = a.metrics.Request
	}
	a.api = httpapi.New(httpapi.Config{
		Observe: observe,
		Verify: func(t string) (id.ID, account.Role, error) {
			c, err := a.tokens.Verify(t)
			return c.User, c.Role, err
		},
		Timeout: cfg.RequestTimeout, MaxRequests: cfg.MaxRequests, ShopperRate: cfg.ShopperRate, Clock: a.clock, Log: log, Away: postgres.Away,
		Trace: a.traceRequests(),
	})
	for _, role := range roleTable() {
		if !cfg.has(role.name) {
			continue
		}
		if err := role.add(a, ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", role.name, err)
		}
	}
	a.api.MountAudit(a.auditNow)
	a.api.ReadyWhen(a.readiness())
	a.api.MountDeadLetters(a.wires.deadLetters())
	a.loops = append(a.loops, a.flow.Run)
	a.watch()
	return a, nil
}

// auditQuietly audits a running system: it waits for a moment in which nothing is on its way, but not for
// long, for in a busy sale there is none.
func (a *app) auditQuietly(ctx context.Context) ([]audit.Check, error) {
	wait, cancel := context.WithTimeout(ctx, a.cfg.RequestTimeout/4)
	defer cancel()
	if err := a.audit.Settle(wait); err != nil {
		return nil, err
	}
	return a.audit.Run(ctx)
}

const (
	stepBound = 15 * time.Second
	termsAge  = 250 * time.Millisecond // how old a sale's terms may be at admission
)

// roleTable lists what each role adds, in the order in which they can be built.
func roleTable() []struct {
	name string
	add  func(*app, context.Context) error
} {
	return []struct {
		name string
		add  func(*app, context.Context) error
	}{
		{"account", (*app).addAccount},
		{"inventory", (*app).addInventory},
		{"reservation", (*app).addReservation},
		{"order", (*app).addOrder},
		{"payment", (*app).addPayment},
		{"catalog", (*app).addCatalog},
		{"notification", (*app).addNotification},
	}
}

// embed takes the data folder for this process and fills in the secrets that it keeps.
func (a *app) embed() error {
	data, err := openDataFolder(a.cfg.Data)
	if err != nil {
		return err
	}
	release, err := data.lock()
	if err != nil {
		return err
	}
	a.closers = append(a.closers, release)
	if len(a.cfg.TokenSecrets) == 0 {
		s, err := data.secret("token-secret")
		if err != nil {
			return err
		}
		a.cfg.TokenSecrets = []string{s}
	}
	if a.cfg.OperatorPassword == "" {
		if a.cfg.OperatorPassword, err = data.secret("operator-password"); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) openGate(ctx context.Context) error {
	if !a.cfg.has("reservation") && !a.cfg.has("inventory") {
		return nil
	}
	if a.cfg.embedded() {
		a.gate = memstock.New(a.cfg.Shards)
	} else if err := a.openRedis(ctx); err != nil {
		return err
	}
	if a.metrics != nil {
		a.gate = a.metrics.Gated(a.gate)
	}
	a.gate = a.fail.gate(a.gate)
	return nil
}

const queueFile = "queue.db"

// openTransport chooses how the steps of the flow travel.
func (a *app) openTransport(ctx context.Context) error {
	a.wires = &wiring{local: map[transport.Service]transport.Answerer{}, trace: a.trace}
	switch {
	case a.cfg.embedded():
		file := dataFolder{a.cfg.Data}.file(queueFile)
		a.wires.events = inproc.New()
		if _, err := os.Stat(file); err == nil || a.cfg.Mode == Async {
			q, err := inproc.OpenQueue(ctx, file, a.clock, a.log, inproc.Options{})
			if err != nil {
				return err
			}
			a.wires.queue = q
		}
	default:
		a.openServers()
	}
	switch {
	case a.wires.queue != nil && a.cfg.Mode == Async:
		a.wires.events = a.wires.queue
	case a.wires.queue != nil:
		a.wires.events = draining{a.wires.events, a.wires.queue}
	}
	if a.metrics != nil {
		a.wires.events = a.metrics.Sending(a.wires.events)
	}
	a.wires.events = a.fail.transport(a.trace.Transport(a.wires.events))
	a.closers = append(a.closers, func() {
		ctx, cancel := context.WithTimeout(context.Background(), a.cfg.DrainFor)
		defer cancel()
		if err := a.wires.stop(ctx); err != nil {
			a.log.Warn("transport", "error", err)
		}
	})
	return nil
}

// here registers a service's handler, outbox and answers.
func (a *app) here(service transport.Service, handle transport.Handler, box transport.Outbox, answer transport.Answerer) {
	if box != nil {
		a.flow.Keep(service, box)
		a.audit.Outboxes[service] = box
	}
	if handle != nil {
		reads := eventsTo(service)
		handle = transport.Only(reads, handle)
		if a.metrics != nil {
			handle = a.metrics.Handled(service, slices.Collect(maps.Keys(reads)), handle)
		}
		a.wires.events.Handle(service, a.flow.Handler(service, handle))
	}
	if answer != nil {
		a.wires.answer(service, answer)
	}
}

func (a *app) addAccount(ctx context.Context) error {
	hasher, err := password.New(a.cfg.PasswordMemory, a.cfg.PasswordSlots)
	if err != nil {
		return err
	}
	a.accounts = account.NewService(a.stores.accounts, hasher, a.tokens, a.clock)
	if a.cfg.OperatorPassword != "" {
		if err := a.accounts.EnsureOperator(ctx, a.cfg.OperatorEmail, a.cfg.OperatorPassword); err != nil {
			return fmt.Errorf("first operator: %w", err)
		}
	}
	a.here(transport.Account, nil, nil, engine.Contacts{Accounts: a.stores.accounts}.Answer)
	a.api.MountAccounts(a.accounts)
	return nil
}

// saleReader reads sales from the ledger of this process, or asks for them.
func (a *app) saleReader() engine.SaleReader {
	if a.stores.ledger != nil {
		return a.stores.ledger
	}
	return engine.RemoteInventory{To: a.wires}
}

func (a *app) holdReader() engine.LedgerReader {
	if a.stores.ledger != nil {
		return a.stores.ledger
	}
	return engine.RemoteInventory{To: a.wires}
}

// history reads the ledger's journal here, or asks for it.
func (a *app) history() inventory.History {
	if a.stores.ledger != nil {
		return a.stores.ledger
	}
	return engine.RemoteInventory{To: a.wires}
}

// sweep has a pass made behind the events, where they go through a queue that could lose them.
func (a *app) sweep(name string, places transport.Places, pass func(context.Context, engine.Sweep) error) {
	if a.wires.queue == nil {
		return
	}
	v := engine.Sweep{Places: places, From: a.history(), Flow: a.flow, Age: a.cfg.SweepAfter, Log: a.log}
	a.loops = append(a.loops, func(ctx context.Context) error { return v.Run(ctx, name, pass) })
}

func (a *app) admission() *engine.Admission {
	return engine.NewAdmission(a.trace.Gate(a.gate), a.saleReader(), a.clock, sleep, a.cfg.PendingFor, termsAge, a.log)
}

func (a *app) addInventory(context.Context) error {
	ledger := a.stores.ledger
	a.keeper = engine.NewKeeper(a.gate, ledger, a.clock, a.cfg.ShardDeadAfter, a.log)
	inv := engine.NewInventory(a.trace.Ledger(ledger), ledger, a.admission(), a.keeper, a.gate.Shards(), a.clock, a.log)
	if a.metrics != nil {
		inv.WatchGroups(a.metrics.Group)
		a.keeper.OnRecovery(func(r engine.Recovery) { a.metrics.Recovered(r.Bucket.Shard, string(r.Reason)) })
		a.metrics.Stock(ledger, a.gate, a.cfg.LookEvery)
	}
	a.closers = append(a.closers, inv.Close)
	a.keeper.Redrive(a.flow.Handler(transport.Inventory, inv.Handle))
	a.here(transport.Inventory, inv.Handle, ledger, engine.Followed(ledger, inv.Answer))
	a.audit.Inventory, a.audit.Books, a.audit.Gate = ledger, ledger, a.gate
	a.loops = append(a.loops,
		func(ctx context.Context) error { return a.keeper.Run(ctx, a.cfg.KeepEvery) },
		func(ctx context.Context) error { return inv.Expirer(ctx, a.flow, a.cfg.ExpireEvery) })
	return nil
}

func (a *app) addReservation(context.Context) error {
	throttle := engine.NewThrottle(engine.Worst(engine.RemotePayments{To: a.wires}.Pressure, engine.RemoteInventory{To: a.wires}.Pressure), a.clock, a.log)
	a.loops = append(a.loops, throttle.Run)
	held := engine.NewReservations(a.admission(), a.flow, a.holdReader(), throttle, a.cfg.Mode == Async, a.clock, a.log)
	a.closers = append(a.closers, held.Close)
	var reservations httpapi.Reservations = held
	if a.metrics != nil {
		a.metrics.LetIn(throttle.Rate)
		reservations = reserving{reservations, a.metrics.Reserved}
	}
	a.api.MountReservations(reservations)
	return nil
}

func (a *app) addOrder(context.Context) error {
	orders := engine.NewOrders(a.trace.Orders(a.stores.orders), a.stores.orders, a.holdReader(), a.saleReader(), a.clock, termsAge)
	if a.metrics != nil {
		orders.WatchGroups(a.metrics.Group)
	}
	a.closers = append(a.closers, orders.Close)
	a.here(transport.Order, orders.Handle, a.stores.orders, orders.Answer)
	a.audit.Orders = a.stores.orders
	a.audit.Own = append(a.audit.Own, a.stores.orders)
	a.api.MountOrders(orders)
	a.sweep("sweep of orders", a.stores.orders, orders.SweepOnce)
	a.sweep("sweep of messages", a.stores.orders, func(ctx context.Context, v engine.Sweep) error {
		return orders.RemindOnce(ctx, v, engine.RemoteMessages{To: a.wires})
	})
	return nil
}

func (a *app) addPayment(context.Context) error {
	sim, err := simprovider.New(a.stores.payments, simprovider.Faults{
		MaxLatency: a.cfg.PaymentLatency, Decline: a.cfg.PaymentDeclineRate, Timeout: a.cfg.PaymentTimeoutRate, LostReply: a.cfg.PaymentLostReplyRate,
	}, sleep)
	if err != nil {
		return err
	}
	var provider payment.Provider = sim
	if a.metrics != nil {
		provider = a.metrics.Charged(sim)
	}
	provider = a.fail.provider(provider)
	var orders engine.OrderReader = engine.RemoteOrders{To: a.wires}
	payments := engine.NewPayments(a.trace.Payments(a.stores.payments), a.trace.Provider(provider), orders, a.flow, a.cfg.PaymentPatience, a.cfg.MaxPaying, a.clock, a.log)
	a.here(transport.Payment, payments.Handle, a.stores.payments, payments.Answer)
	a.loops = append(a.loops, payments.Look)
	if a.metrics != nil {
		a.metrics.Paying(func() (now, most int) {
			p := payments.Pressure()
			return p.UnderWay, p.Most
		})
	}
	a.audit.Payments, a.audit.Provider = a.stores.payments, provider
	a.audit.Own = append(a.audit.Own, a.stores.payments)
	a.api.MountPayments(payments)
	a.loops = append(a.loops, func(ctx context.Context) error {
		return payments.Prober(ctx, a.cfg.ProbeAfter/4, a.cfg.ProbeAfter)
	})
	a.sweep("sweep of payments", a.stores.payments, payments.SweepOnce)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *app) addCatalog(context.Context) error {
	var cache catalog.Cache = memcache.New(10_000, a.clock)
	if a.cfg.CacheURL != "" {
		c, err := rediscache.Open(a.cfg.CacheURL, "flashsale:catalog:")
		if err != nil {
			return err
		}
		a.closers = append(a.closers, func() { _ = c.Close() })
		cache = c
	}
	if a.metrics != nil {
		cache = a.metrics.Cached(cache)
	}
	stock := engine.LiveStock{Sales: a.saleReader()}
	a.catalog = catalog.NewService(a.stores.catalog, a.stores.catalog, stock, cache, catalog.DefaultTTL(), a.clock, a.log)
	a.here(transport.Catalog, nil, a.stores.catalog, nil)
	a.flow.KeepUntil(transport.Catalog, a.stores.catalog, engine.Announced(a.saleReader(), a.stores.catalog))
	a.api.MountCatalog(a.catalog, a.tell)
	return nil
}

// tell sends an event of the catalogue on; what cannot be sent now, the relay sends.
func (a *app) tell(ctx context.Context, e transport.Envelope) (decided bool) {
	receipt, err := a.flow.Dispatch(ctx, e)
	if err != nil {
		a.log.WarnContext(ctx, "event stays in the outbox", "service", transport.Catalog, "event", e.Type, "error", err)
		return false
	}
	if receipt.Decided { // what was accepted stays in the outbox until the ledger has it
		a.flow.Sent(transport.Catalog, e.ID)
	}
	return receipt.Decided
}

func (a *app) addNotification(context.Context) error {
	var channel notification.Channel = logchannel.New(a.log)
	switch {
	case a.cfg.SMTPURL != "":
		c, err := smtpchannel.New(a.cfg.SMTPURL, a.cfg.MailFrom)
		if err != nil {
			return err
		}
		channel = c
	case a.cfg.WebhookURL != "":
		channel = webhookchannel.New(a.cfg.WebhookURL, a.cfg.WebhookSecret, a.clock)
	}
	var contacts engine.ContactReader = engine.RemoteContacts{To: a.wires}
	n := engine.NewNotifications(a.trace.Notifications(a.stores.notifications), contacts, a.clock, a.log)
	a.closers = append(a.closers, n.Close)
	a.here(transport.Notification, n.Handle, nil, n.Answer)
	a.audit.Own = append(a.audit.Own, a.stores.notifications)
	worker := notification.NewWorker(a.stores.notifications, channel, a.clock, rand.Float64, a.log)
	a.loops = append(a.loops, func(ctx context.Context) error { return n.Sender(ctx, worker, notifyEvery) })
	return nil
}

const notifyEvery = 500 * time.Millisecond

// run starts the transport, the loops and the listener, in this order: whoever gets in can be served.
func (a *app) run(ctx context.Context) error {
	if a.keeper != nil {
		if err := a.keeper.RunOnce(ctx); err != nil { // the gate first: closed buckets cannot be sold from
			return fmt.Errorf("gate: %w", err)
		}
	}
	a.finish = a.flow.Afterwards()
	if err := a.wires.start(ctx); err != nil {
		return err
	}
	var err error
	if a.listen, err = (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.Listen); err != nil {
		return fmt.Errorf("cannot listen on %s; is another process there? %w", a.cfg.Listen, err)
	}
	if a.cfg.has("console") {
		if err := a.mountConsole(); err != nil {
			return err
		}
	}
	if err := a.collect(ctx); err != nil {
		return err
	}
	loops, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a.cancel = cancel
	for _, loop := range a.loops {
		a.running.Go(func() { a.note(loop(loops)) })
	}
	a.running.Go(func() { a.note(a.api.Serve(a.listen)) })
	return nil
}

// mountConsole puts storefront and operator console in front of the API, whose client they are.
func (a *app) mountConsole() error {
	api := a.cfg.ConsoleAPI
	if api == "" {
		api = a.url()
	}
	site, err := console.New(console.Config{API: api, Timeout: a.cfg.RequestTimeout + 5*time.Second, Clock: a.clock, Log: a.log})
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	a.api.MountSite(console.Paths(), site)
	return nil
}

func (a *app) note(err error) {
	if err == nil || errors.Is(err, net.ErrClosed) {
		return
	}
	select {
	case a.failed <- err:
	default:
	}
}

func (a *app) url() string { return "http://" + a.listen.Addr().String() }

// stop refuses new work, finishes what was accepted, and closes everything. It may be called twice.
func (a *app) stop(ctx context.Context) error {
	var err error
	a.once.Do(func() {
		a.api.Drain()
		_ = sleep(ctx, a.cfg.DrainNotice) // whoever sends requests here sees it before they are refused
		err = a.api.Stop(ctx)
		_ = a.listen.Close() // a server that had not begun to accept is not stopped by Stop
		a.finish(ctx)
		err = errors.Join(err, a.wires.stop(ctx))
		a.cancel()
		a.running.Wait()
		a.closeAll()
	})
	return err
}

func (a *app) closeAll() {
	for i := len(a.closers) - 1; i >= 0; i-- {
		a.closers[i]()
	}
	a.closers = nil
}
