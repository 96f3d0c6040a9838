package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Tx is a transaction of as few round trips as it has batches: it begins with the first and is committed with the
// last. For a group of a few rows the turns between the two processes cost more than the statements.
type Tx struct {
	conn        *pgxpool.Conn
	begun, done bool
}

const undoBound = 5 * time.Second

// InTx runs f in a transaction, read committed. It is rolled back unless f has sent Commit.
func InTx(ctx context.Context, pool *pgxpool.Pool, f func(*Tx) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release() // which closes a connection that is still in a transaction
	t := &Tx{conn: conn}
	err = f(t)
	if t.begun && !t.done && !conn.Conn().IsClosed() {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
		_, _ = conn.Exec(undo, "ROLLBACK")
		cancel()
	}
	return err
}

// Send sends a batch and has its results read, in the order of its statements.
func (t *Tx) Send(ctx context.Context, b *pgx.Batch, read func(pgx.BatchResults) error) error {
	return t.send(ctx, b, read, false)
}

// Commit sends a batch and commits with it. What read finds cannot undo the commit any more: whatever must is an error of
// a statement. After an error of the connection it is not known whether it was committed.
func (t *Tx) Commit(ctx context.Context, b *pgx.Batch, read func(pgx.BatchResults) error) error {
	return t.send(ctx, b, read, true)
}

func (t *Tx) send(ctx context.Context, b *pgx.Batch, read func(pgx.BatchResults) error, last bool) error {
	whole := &pgx.Batch{}
	first := !t.begun
	if first {
		whole.Queue("BEGIN")
		t.begun = true
	}
	whole.QueuedQueries = append(whole.QueuedQueries, b.QueuedQueries...)
	if last {
		whole.Queue("COMMIT") // after an error the server runs nothing more of a batch
	}
	results := t.conn.SendBatch(ctx, whole)
	var err error
	if first {
		_, err = results.Exec()
	}
	if err == nil && read != nil {
		err = read(results)
	}
	cerr := results.Close()
	if last && cerr == nil {
		t.done = true
	}
	if err == nil {
		err = cerr
	}
	return err
}
