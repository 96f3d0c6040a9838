package main

import (
	"context"
	"flashsale/account"
	"flashsale/account/pgaccount"
	"flashsale/account/sqliteaccount"
	"flashsale/catalog"
	"flashsale/catalog/pgcatalog"
	"flashsale/catalog/sqlitecatalog"
	"flashsale/database/postgres"
	"flashsale/database/sqlite"
	"flashsale/engine"
	"flashsale/inventory"
	"flashsale/inventory/pgledger"
	"flashsale/inventory/sqliteledger"
	"flashsale/notification"
	"flashsale/notification/pgnotification"
	"flashsale/notification/sqlitenotification"
	"flashsale/order"
	"flashsale/order/pgorder"
	"flashsale/order/sqliteorder"
	"flashsale/payment"
	"flashsale/payment/pgpayment"
	"flashsale/payment/simprovider"
	"flashsale/payment/sqlitepayment"
	"flashsale/telemetry/metrics"
	"flashsale/transport"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What a service's store offers, whichever database it is.
type (
	ledgerStore interface {
		inventory.Ledger
		inventory.Sales
		inventory.Books
		inventory.Balance
		inventory.History
		inventory.Auditor
		transport.Outbox
	}
	orderStore interface {
		order.Store
		order.Carts
		order.Auditor
		transport.Outbox
		transport.Places
	}
	paymentStore interface {
		payment.Store
		payment.Auditor
		simprovider.Store
		transport.Outbox
		transport.Places
	}
	catalogStore interface {
		catalog.Products
		catalog.Sales
		transport.Outbox
	}
	notificationStore interface {
		notification.Store
		engine.OwnAudit
	}
)

// stores are the databases of this process's roles; the others are nil.
type stores struct {
	ledger        ledgerStore
	orders        orderStore
	payments      paymentStore
	catalog       catalogStore
	accounts      account.Store
	notifications notificationStore
	close         []func()
	pings         map[string]func(context.Context) error // by role
}

// migrations lists the schema of every role's database.
type migrations struct{ postgres, sqlite fs.FS }

func schema(role string) migrations {
	return map[string]migrations{
		"inventory":    {pgledger.Migrations, sqliteledger.Migrations},
		"order":        {pgorder.Migrations, sqliteorder.Migrations},
		"payment":      {pgpayment.Migrations, sqlitepayment.Migrations},
		"catalog":      {pgcatalog.Migrations, sqlitecatalog.Migrations},
		"account":      {pgaccount.Migrations, sqliteaccount.Migrations},
		"notification": {pgnotification.Migrations, sqlitenotification.Migrations},
	}[role]
}

// patience is how long a server may take to answer at start.
const patience = 15 * time.Second

// openStores opens the database of every role that has one. A PostgreSQL whose schema is not up to
// date, or that would lose commits, is refused; SQLite files are made and migrated.
func openStores(ctx context.Context, cfg Config, clock func() time.Time, m *metrics.Metrics) (_ *stores, err error) {
	s := &stores{pings: map[string]func(context.Context) error{}}
	defer func() {
		if err != nil {
			s.closeAll()
		}
	}()
	for _, role := range cfg.Roles {
		if _, owns := databases()[role]; !owns {
			continue
		}
		if cfg.embedded() {
			err = s.openSQLite(ctx, cfg, role, clock)
		} else {
			err = s.openPostgres(ctx, cfg, role, m)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", role, err)
		}
	}
	if m != nil {
		s.measure(m)
	}
	return s, nil
}

// measure decorates the stores that metrics are made of.
func (s *stores) measure(m *metrics.Metrics) {
	if s.ledger != nil {
		s.ledger = m.Booked(s.ledger)
	}
	if s.orders != nil {
		s.orders = m.Ordered(s.orders)
	}
	if s.payments != nil {
		s.payments = paymentsAndCharges{m.Paid(s.payments), s.payments}
	}
}

// paymentsAndCharges is a payment store of which only the payments are measured.
type paymentsAndCharges struct {
	metrics.Payments
	simprovider.Store
}

func (s *stores) openSQLite(ctx context.Context, cfg Config, role string, clock func() time.Time) error {
	db, err := sqlite.Open(ctx, dataFolder{cfg.Data}.file(databases()[role]+".db"))
	if err != nil {
		return err
	}
	s.close = append(s.close, func() { _ = db.Close() })
	s.pings[role] = db.Read.PingContext
	if err := sqlite.Migrate(ctx, db, schema(role).sqlite); err != nil {
		return err
	}
	switch role {
	case "inventory":
		ledger := sqliteledger.New(db, clock)
		ledger.LimitUnpaid(cfg.MaxUnpaid)
		s.ledger = ledger
	case "order":
		s.orders = sqliteorder.New(db, clock)
	case "payment":
		s.payments = sqlitepayment.New(db, clock)
	case "catalog":
		s.catalog = sqlitecatalog.New(db, clock)
	case "account":
		s.accounts = sqliteaccount.New(db)
	case "notification":
		s.notifications = sqlitenotification.New(db, clock)
	}
	return nil
}

func (s *stores) openPostgres(ctx context.Context, cfg Config, role string, m *metrics.Metrics) error {
	var tracers []pgx.QueryTracer
	if m != nil {
		tracers = append(tracers, m.Database(databases()[role]))
	}
	pool, err := postgres.Open(ctx, cfg.databaseURL(role), int32(min(cfg.DatabaseConns, 10_000)), patience, tracers...)
	if err != nil {
		return err
	}
	if m != nil {
		m.Pool(databases()[role], pool)
	}
	s.close = append(s.close, pool.Close)
	s.pings[role] = pool.Ping
	if err := checkPostgres(ctx, pool, role); err != nil {
		return err
	}
	switch role {
	case "inventory":
		ledger := pgledger.New(pool)
		ledger.LimitUnpaid(cfg.MaxUnpaid)
		s.ledger = ledger
	case "order":
		orders := pgorder.New(pool)
		s.close = append(s.close, orders.Close) // before its pool
		s.orders = orders
	case "payment":
		payments := pgpayment.New(pool)
		s.close = append(s.close, payments.Close) // before its pool
		s.payments = payments
	case "catalog":
		s.catalog = pgcatalog.New(pool)
	case "account":
		s.accounts = pgaccount.New(pool)
	case "notification":
		notifications := pgnotification.New(pool)
		s.close = append(s.close, notifications.Close) // before its pool
		s.notifications = notifications
	}
	return nil
}

func checkPostgres(ctx context.Context, pool *pgxpool.Pool, role string) error {
	if err := postgres.CheckSafe(ctx, pool); err != nil {
		return err
	}
	return postgres.CheckVersion(ctx, pool, schema(role).postgres)
}

func (s *stores) closeAll() {
	for i := len(s.close) - 1; i >= 0; i-- {
		s.close[i]()
	}
}
