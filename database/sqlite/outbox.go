package sqlite

import (
	"context"
	"database/sql"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"time"
)

// Outbox is the outbox table of a service's file. Each service's migrations create it:
//
//	CREATE TABLE outbox (
//	    id blob PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject blob NOT NULL,
//	    at integer NOT NULL, trace text NOT NULL, data blob NOT NULL,
//	    written_at integer NOT NULL, leased_until integer NOT NULL DEFAULT 0
//	);
//	CREATE INDEX outbox_written_at ON outbox (written_at);
type Outbox struct {
	db    *DB
	clock func() time.Time
}

// NewOutbox returns the outbox of the file, on this clock.
func NewOutbox(db *DB, clock func() time.Time) Outbox { return Outbox{db, clock} }

// Enqueue writes envelopes to the outbox within the transaction. An envelope that is there stays.
func Enqueue(ctx context.Context, tx *sql.Tx, now time.Time, es []transport.Envelope) error {
	for _, e := range es {
		_, err := tx.ExecContext(ctx, `INSERT INTO outbox (id, kind, source, subject, at, trace, data, written_at)
			VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING`,
			e.ID[:], e.Kind(), string(e.Source), e.Subject[:], Micros(e.Time), e.TraceParent, []byte(e.Body()), Micros(now))
		if err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
	}
	return nil
}

// lease is how long a relay has for what it took before another relay may take it.
const lease = 10 * time.Second

// Unsent implements transport.Outbox.
func (o Outbox) Unsent(ctx context.Context, age time.Duration, limit int) ([]transport.Envelope, error) {
	now := o.clock()
	var es []transport.Envelope
	err := o.db.Tx(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT id, kind, source, subject, at, trace, data FROM outbox
			WHERE written_at <= ? AND leased_until < ? ORDER BY written_at, rowid LIMIT ?`, Micros(now.Add(-age)), Micros(now), limit)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var e transport.Envelope
			var eid, subject, data []byte
			var kind, source string
			var at int64
			if err := rows.Scan(&eid, &kind, &source, &subject, &at, &e.TraceParent, &data); err != nil {
				return err
			}
			e.Type, e.Version = transport.ParseKind(kind)
			e.ID, e.Subject, e.Source, e.Time, e.Data = id.ID(eid), id.ID(subject), transport.Service(source), Time(at), data
			es = append(es, e)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for _, e := range es {
			if _, err := tx.ExecContext(ctx, `UPDATE outbox SET leased_until = ? WHERE id = ?`, Micros(now.Add(lease)), e.ID[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return es, nil
}

// MarkSent implements transport.Outbox.
func (o Outbox) MarkSent(ctx context.Context, ids []id.ID) error {
	err := o.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, v := range ids {
			if _, err := tx.ExecContext(ctx, `DELETE FROM outbox WHERE id = ?`, v[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// Backlog implements transport.Outbox.
func (o Outbox) Backlog(ctx context.Context) (int, time.Duration, error) {
	var n int
	var oldest int64
	err := o.db.Read.QueryRowContext(ctx, `SELECT count(*), coalesce(min(written_at), 0) FROM outbox`).Scan(&n, &oldest)
	if err != nil {
		return 0, 0, fmt.Errorf("outbox: %w", err)
	}
	if n == 0 {
		return 0, 0, nil
	}
	return n, o.clock().Sub(Time(oldest)), nil
}
