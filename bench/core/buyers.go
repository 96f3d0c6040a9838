package main

import (
	"context"
	"errors"
	"flashsale/bench/lab"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// pastSales is how many sales the past buyers have bought in.
const pastSales = 50

// fillBuyers writes past buyers into the books of a world, straight into the tables: each has a
// paid reservation of one unit, its leg, its allowance and its order, in sales that ended a month
// ago. The books balance: the journal, which is only ever appended to, has an entry a sale. There are
// no payments, which no reservation reads.
func fillBuyers(ctx context.Context, l *lab.Lab, w *lab.World, buyers int) error {
	each := buyers / pastSales
	if each == 0 {
		return fmt.Errorf("%d past buyers are too few for %d sales", buyers, pastSales)
	}
	// The same ids in both databases: made from the buyer's number.
	const from = ` FROM generate_series(0, %d) AS i, LATERAL (SELECT md5('sale' || i %% %d)::uuid AS sale, md5('r' || i)::uuid AS r, md5('u' || i)::uuid AS u) k`
	series := fmt.Sprintf(from, each*pastSales-1, pastSales)
	past := `timestamptz '2020-01-01 00:00:00Z' + i * interval '1 ms'`
	if err := l.Postgres.SQL(ctx, w.Name+"_inventory",
		fmt.Sprintf(`INSERT INTO sale (id, status, opens_at, ends_at, per_user_limit, hold_us, revision, ended_at)
			SELECT md5('sale' || i)::uuid, 'ended', now() - interval '31 days', now() - interval '30 days', 10, 60000000, 1, now() - interval '30 days' FROM generate_series(0, %d) i`, pastSales-1),
		fmt.Sprintf(`INSERT INTO sale_item (sale, sku, price, currency, total) SELECT id, 'PAST', 1990, 'EUR', %d FROM sale`, each),
		fmt.Sprintf(`INSERT INTO bucket (sale, sku, shard, epoch, granted, sold) SELECT id, 'PAST', 0, 1, %d, %d FROM sale`, each, each),
		fmt.Sprintf(`INSERT INTO journal (sale, sku, shard, kind, d_granted, d_held, d_sold, cause) SELECT id, 'PAST', 0, 'grant', %d, 0, %d, id FROM sale`, each, each),
	); err != nil {
		return err
	}
	fills := []struct{ database, table, insert string }{
		{"inventory", "reservation", `INSERT INTO reservation (id, user_id, sale, sku, qty, price, currency, state, reason, payment, cart, fingerprint, created_at, expires_at)
			SELECT r, u, sale, 'PAST', 1, 1990, 'EUR', 'paid', '', r, r, decode(md5('a' || i) || md5('b' || i), 'hex'), ` + past + `, ` + past + series},
		{"orders", "orders", `INSERT INTO orders (id, user_id, sale, sku, qty, price, total, currency, state, reason, payment, cart, created_at, updated_at, expires_at)
			SELECT r, u, sale, 'PAST', 1, 1990, 1990, 'EUR', 'confirmed', '', r, r, ` + past + `, ` + past + `, ` + past + series},
		{"inventory", "leg", `INSERT INTO leg (take, reservation, sale, sku, shard, epoch, qty, outcome)
			SELECT md5('t' || i)::uuid, r, sale, 'PAST', 0, 1, 1, 'committed'` + series},
		{"inventory", "allowance", `INSERT INTO allowance (sale, sku, user_id, qty) SELECT sale, 'PAST', u, 1` + series},
	}
	queue := make(chan int, len(fills))
	for i := range fills {
		queue <- i
	}
	close(queue)
	var wg sync.WaitGroup
	errs := make([]error, 2) // as many as there are cores on the smallest machine
	for worker := range errs {
		wg.Go(func() {
			for i := range queue {
				f := fills[i]
				l.Say.Step("past buyers: %s", f.table)
				if err := fill(ctx, l, w.Name+"_"+f.database, f.table, f.insert); err != nil {
					errs[worker] = fmt.Errorf("%s: %w", f.table, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return l.Checkpoint(ctx)
}

// fill loads a table without its indexes and makes the same ones again: sorted at once, they take a
// tenth of the time.
func fill(ctx context.Context, l *lab.Lab, database, table, insert string) error {
	c, err := pgx.Connect(ctx, l.Postgres.URL(database))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.Exec(ctx, `SET maintenance_work_mem = '512MB'`); err != nil {
		return err
	}
	rows, err := c.Query(ctx, `SELECT 'ALTER TABLE ' || conrelid::regclass || ' DROP CONSTRAINT ' || conname,
			'ALTER TABLE ' || conrelid::regclass || ' ADD CONSTRAINT ' || conname || ' ' || pg_get_constraintdef(oid)
			FROM pg_constraint WHERE conrelid = $1::regclass AND contype IN ('p', 'u')
		UNION ALL SELECT 'DROP INDEX ' || indexrelid::regclass, pg_get_indexdef(indexrelid) FROM pg_index i
			WHERE indrelid = $1::regclass AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = i.indexrelid)`, table)
	if err != nil {
		return err
	}
	type index struct{ drop, make string }
	indexes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (index, error) {
		var i index
		err := row.Scan(&i.drop, &i.make)
		return i, err
	})
	if err != nil {
		return err
	}
	var statements []string
	for _, i := range indexes {
		statements = append(statements, i.drop)
	}
	statements = append(statements, insert)
	for _, i := range indexes {
		statements = append(statements, i.make)
	}
	for _, s := range append(statements, `VACUUM (ANALYZE, PARALLEL 0) `+table) {
		if _, err := c.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}
