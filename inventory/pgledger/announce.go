package pgledger

import (
	"context"
	"flashsale/database/postgres"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// announcer is the ledger's outbox: the generic one, and for reservation.held, of which there are as
// many as reservations, one row a group that names the reservations. The row is deleted when all of
// its events are known to be sent; which are, is remembered by the process that committed or leased
// it. What is forgotten with the process is sent once more by a relay, without a second effect.
type announcer struct {
	postgres.Outbox
	pool *pgxpool.Pool

	mu      sync.Mutex
	waiting map[id.ID]*announcement // by event
}

// announcement is a row whose events are on their way.
type announcement struct {
	row  int64
	left int // events not sent
}

const (
	maxAnnounced = 64      // reservations of one row: a relay leases rows whole
	maxWaiting   = 500_000 // events remembered; the rows of others wait for the relay
)

// held is a reservation of a group, with its event.
type held struct {
	row   reservation.Reservation
	event transport.Envelope
}

// queueAnnouncements adds the statement that writes the rows; their ids come back in order.
func queueAnnouncements(b *pgx.Batch, hs []held) {
	for part := range slices.Chunk(hs, maxAnnounced) {
		rids := make([]id.ID, len(part))
		for i, h := range part {
			rids[i] = h.row.ID
		}
		b.Queue(`INSERT INTO announcement (reservations) VALUES ($1) RETURNING id`, rids)
	}
}

// announced remembers rows that were written, a part of the events each.
func (a *announcer) announced(rows []int64, hs []held) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := 0
	for part := range slices.Chunk(hs, maxAnnounced) {
		if len(a.waiting)+len(part) <= maxWaiting {
			v := &announcement{row: rows[i], left: len(part)}
			for _, h := range part {
				a.waiting[h.event.ID] = v
			}
		}
		i++
	}
}

// Unsent implements transport.Outbox. Neither kind keeps the other from being sent. Announcements are
// leased whole and come first: what is said of a reservation later is then said after it.
func (a *announcer) Unsent(ctx context.Context, age time.Duration, limit int) ([]transport.Envelope, error) {
	others, err := a.Outbox.Unsent(ctx, age, limit/2)
	if err != nil {
		return nil, err
	}
	held, err := a.unannounced(ctx, age, limit-len(others))
	if err != nil {
		return nil, err
	}
	if rest := limit - len(held) - len(others); rest > 0 && len(others) == limit/2 {
		more, err := a.Outbox.Unsent(ctx, age, rest)
		if err != nil {
			return nil, err
		}
		others = append(others, more...)
	}
	return append(held, others...), nil
}

// unannounced leases the oldest rows that have limit events in all, the last of them whole.
func (a *announcer) unannounced(ctx context.Context, age time.Duration, limit int) ([]transport.Envelope, error) {
	type member struct {
		row   int64
		trace string
		reservation.Reservation
	}
	found, err := a.pool.Query(ctx, `
		WITH oldest AS (
			SELECT id, cardinality(reservations) AS n FROM announcement
			WHERE written_at <= now() - make_interval(secs => $1) AND (leased_until IS NULL OR leased_until < now()) ORDER BY id LIMIT $2
		), first AS (
			SELECT id FROM (SELECT id, sum(n) OVER (ORDER BY id) - n AS before FROM oldest) AS counted WHERE before < $2
		), due AS (
			SELECT id FROM announcement WHERE id IN (SELECT id FROM first) AND (leased_until IS NULL OR leased_until < now()) ORDER BY id FOR UPDATE SKIP LOCKED
		), leased AS (
			UPDATE announcement a SET leased_until = now() + interval '10 seconds' FROM due WHERE a.id = due.id RETURNING a.id, a.reservations
		)
		SELECT l.id, r.trace, `+reservationColumns+` FROM leased l CROSS JOIN unnest(l.reservations) AS u (rid) JOIN reservation r ON r.id = u.rid ORDER BY l.id, r.id`,
		age.Seconds(), limit)
	if err != nil {
		return nil, fmt.Errorf("ledger: announcements: %w", err)
	}
	members, err := pgx.CollectRows(found, func(row pgx.CollectableRow) (member, error) {
		var m member
		var err error
		m.Reservation, err = scanAfter(row, &m.row, &m.trace)
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: announcements: %w", err)
	}
	es := make([]transport.Envelope, len(members))
	a.mu.Lock()
	defer a.mu.Unlock()
	rowOf := map[int64]*announcement{}
	for i, m := range members {
		// As it was said: what became of the reservation since is said by other events.
		m.State, m.Reason, m.Payment = reservation.Held, "", id.ID{}
		es[i] = inventory.Held(m.Reservation, m.trace)
		v := rowOf[m.row]
		if v == nil {
			v = &announcement{row: m.row}
			rowOf[m.row] = v
		}
		v.left++
		a.waiting[es[i].ID] = v
	}
	return es, nil
}

// MarkSent implements transport.Outbox.
func (a *announcer) MarkSent(ctx context.Context, ids []id.ID) error {
	var rows []int64
	var others []id.ID
	a.mu.Lock()
	for _, v := range ids {
		w := a.waiting[v]
		if w == nil {
			others = append(others, v)
			continue
		}
		delete(a.waiting, v)
		if w.left--; w.left == 0 {
			rows = append(rows, w.row)
		}
	}
	a.mu.Unlock()
	if len(rows) > 0 {
		if _, err := a.pool.Exec(ctx, `DELETE FROM announcement WHERE id = ANY($1::bigint[])`, rows); err != nil {
			return fmt.Errorf("ledger: announcements: %w", err)
		}
	}
	return a.Outbox.MarkSent(ctx, others)
}

// Backlog implements transport.Outbox.
func (a *announcer) Backlog(ctx context.Context) (int, time.Duration, error) {
	n, oldest, err := a.Outbox.Backlog(ctx)
	if err != nil {
		return 0, 0, err
	}
	var more int
	var secs float64
	err = a.pool.QueryRow(ctx, `SELECT coalesce(sum(cardinality(reservations)), 0), coalesce(extract(epoch FROM now() - min(written_at)), 0)::float8 FROM announcement`).
		Scan(&more, &secs)
	if err != nil {
		return 0, 0, fmt.Errorf("ledger: announcements: %w", err)
	}
	return n + more, max(oldest, time.Duration(secs*float64(time.Second))), nil
}
