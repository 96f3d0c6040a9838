package postgres

import (
	"context"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Outbox is the outbox table of a service's database. Each service's migrations create it:
//
//	CREATE TABLE outbox (
//	    id uuid PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject uuid NOT NULL,
//	    at timestamptz NOT NULL, trace text NOT NULL, data bytea NOT NULL,
//	    written_at timestamptz NOT NULL DEFAULT now(), leased_until timestamptz
//	);
//	CREATE INDEX outbox_written_at ON outbox (written_at);
type Outbox struct{ pool *pgxpool.Pool }

// NewOutbox returns the outbox of the database.
func NewOutbox(pool *pgxpool.Pool) Outbox { return Outbox{pool} }

// Enqueue adds to a batch the statement that writes envelopes to the outbox, within the batch's
// transaction. An envelope that is there already stays.
func Enqueue(b *pgx.Batch, es []transport.Envelope) {
	if len(es) == 0 {
		return
	}
	n := len(es)
	ids, kinds, sources, subjects := make([]id.ID, n), make([]string, n), make([]string, n), make([]id.ID, n)
	ats, traces, data := make([]time.Time, n), make([]string, n), make([][]byte, n)
	for i, e := range es {
		ids[i], kinds[i], sources[i], subjects[i] = e.ID, e.Kind(), string(e.Source), e.Subject
		ats[i], traces[i], data[i] = e.Time, e.TraceParent, e.Body()
	}
	b.Queue(`INSERT INTO outbox (id, kind, source, subject, at, trace, data)
		SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::timestamptz[], $6::text[], $7::bytea[])
		ON CONFLICT (id) DO NOTHING`, ids, kinds, sources, subjects, ats, traces, data)
}

// Unsent implements transport.Outbox.
func (o Outbox) Unsent(ctx context.Context, age time.Duration, limit int) ([]transport.Envelope, error) {
	rows, err := o.pool.Query(ctx, `
		WITH due AS (
			SELECT id FROM outbox
			WHERE written_at <= now() - make_interval(secs => $1) AND (leased_until IS NULL OR leased_until < now())
			ORDER BY written_at LIMIT $2 FOR UPDATE SKIP LOCKED
		)
		UPDATE outbox o SET leased_until = now() + interval '10 seconds' FROM due WHERE o.id = due.id
		RETURNING o.id, o.kind, o.source, o.subject, o.at, o.trace, o.data, o.written_at`, age.Seconds(), limit)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	type aged struct {
		e  transport.Envelope
		at time.Time
	}
	found, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (aged, error) {
		var a aged
		var kind, source string
		var data []byte
		err := r.Scan(&a.e.ID, &kind, &source, &a.e.Subject, &a.e.Time, &a.e.TraceParent, &data, &a.at)
		a.e.Type, a.e.Version = transport.ParseKind(kind)
		a.e.Source, a.e.Time, a.e.Data = transport.Service(source), a.e.Time.UTC(), data
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	slices.SortFunc(found, func(a, b aged) int { return a.at.Compare(b.at) }) // RETURNING keeps no order
	es := make([]transport.Envelope, len(found))
	for i, a := range found {
		es[i] = a.e
	}
	return es, nil
}

// MarkSent implements transport.Outbox.
func (o Outbox) MarkSent(ctx context.Context, ids []id.ID) error {
	if len(ids) == 0 {
		return nil
	}
	if _, err := o.pool.Exec(ctx, `DELETE FROM outbox WHERE id = ANY($1::uuid[])`, ids); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// Backlog implements transport.Outbox.
func (o Outbox) Backlog(ctx context.Context) (int, time.Duration, error) {
	var n int
	var secs float64
	err := o.pool.QueryRow(ctx, `SELECT count(*), coalesce(extract(epoch FROM now() - min(written_at)), 0)::float8 FROM outbox`).Scan(&n, &secs)
	if err != nil {
		return 0, 0, fmt.Errorf("outbox: %w", err)
	}
	return n, time.Duration(secs * float64(time.Second)), nil
}
