package inproc

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"flashsale/database/sqlite"
	"flashsale/groupcommit"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

//go:embed migrations/*.sql
var files embed.FS

// Queue is the asynchronous transport of one process: Send answers "accepted" once the envelope is
// committed to a SQLite file, and workers deliver it, also after a crash. At least once; a handler
// that fails is tried again with growing delays, and after the last attempt, or a Permanent error,
// the envelope is a dead letter.
type Queue struct {
	db       *sqlite.DB
	clock    func() time.Time
	log      *slog.Logger
	opts     Options
	handlers map[transport.Service]transport.Handler

	put    *groupcommit.Group[message, struct{}]
	done   *groupcommit.Group[message, bool]
	lanes  map[transport.Service]*lane
	cancel context.CancelFunc
	loops  sync.WaitGroup

	mu      sync.Mutex
	stopped bool
}

// Options bound a Queue. The zero value of a field means its default.
type Options struct {
	Workers  int           // handlers at the same time per service; 64
	Depth    int           // envelopes waiting per service, beyond which Send is ErrOverloaded; 100,000
	Attempts int           // before an envelope is a dead letter; 10
	Backoff  time.Duration // before the second attempt, doubling up to a minute; 50 ms
	// Pauses are how long a dead letter of a transport.Passing error waits before its automatic
	// replays, as many as there are; transport.DefaultPauses.
	Pauses []time.Duration
}

func (o Options) filled() Options {
	if o.Workers == 0 {
		o.Workers = 64
	}
	if o.Depth == 0 {
		o.Depth = 100_000
	}
	if o.Attempts == 0 {
		o.Attempts = 10
	}
	if o.Backoff == 0 {
		o.Backoff = 50 * time.Millisecond
	}
	if o.Pauses == nil {
		o.Pauses = transport.DefaultPauses()
	}
	return o
}

type message struct {
	id       id.ID
	service  transport.Service
	envelope transport.Envelope
	body     []byte
	attempts int
	replays  int    // automatic ones
	reason   string // the text of the last failure
	why      transport.Reason
	pause    time.Duration // of a dead one, before it is replayed by itself; 0 when it is not
	dead     bool
	failed   bool
}

// lane is the work of one service.
type lane struct {
	ready chan message
	wake  chan struct{}

	mu    sync.Mutex
	taken map[id.ID]bool // in ready or being handled: not to be read from the file again
	past  map[id.ID]bool // handled since the reader began to read: what it has read of them is old
	depth int            // in the file and not dead
}

// OpenQueue opens or creates the queue's file. What was not finished when the last process ended is
// delivered after Start.
func OpenQueue(ctx context.Context, path string, clock func() time.Time, log *slog.Logger, opts Options) (*Queue, error) {
	db, err := sqlite.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	schema, err := fs.Sub(files, "migrations")
	if err == nil {
		err = sqlite.Migrate(ctx, db, schema)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	q := &Queue{
		db: db, clock: clock, log: log, opts: opts.filled(), handlers: map[transport.Service]transport.Handler{}, lanes: map[transport.Service]*lane{},
	}
	q.put = groupcommit.New(500, 10_000, 1, q.store)
	q.done = groupcommit.New(500, 10_000, 1, q.conclude)
	return q, nil
}

// Handle implements transport.Transport.
func (q *Queue) Handle(to transport.Service, h transport.Handler) {
	q.handlers[to] = h
	q.lanes[to] = &lane{ready: make(chan message, q.opts.Workers*2), wake: make(chan struct{}, 1), taken: map[id.ID]bool{}, past: map[id.ID]bool{}}
}

// Start implements transport.Transport.
func (q *Queue) Start(ctx context.Context) error {
	for service, l := range q.lanes {
		if err := q.db.Read.QueryRowContext(ctx, `SELECT count(*) FROM message WHERE service = ? AND dead = 0`, string(service)).Scan(&l.depth); err != nil {
			return fmt.Errorf("queue: %w", err)
		}
	}
	loop, cancel := context.WithCancel(context.WithoutCancel(ctx))
	q.cancel = cancel
	for service, l := range q.lanes {
		q.loops.Go(func() { q.read(loop, service, l) })
		for range q.opts.Workers {
			q.loops.Go(func() { q.work(loop, service, l) })
		}
	}
	return nil
}

// Send implements transport.Sender.
func (q *Queue) Send(ctx context.Context, to transport.Service, e transport.Envelope) (transport.Receipt, error) {
	l, ok := q.lanes[to]
	if !ok {
		return transport.Receipt{}, fmt.Errorf("%w: the service %q does not run in this process", transport.ErrUnavailable, to)
	}
	q.mu.Lock()
	stopped := q.stopped
	q.mu.Unlock()
	if stopped {
		return transport.Receipt{}, transport.ErrStopped
	}
	body, err := transport.Marshal(e)
	if err != nil {
		return transport.Receipt{}, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	l.mu.Lock()
	full := l.depth >= q.opts.Depth
	l.mu.Unlock()
	if full {
		return transport.Receipt{}, transport.ErrOverloaded
	}
	m := message{id: e.ID, service: to, envelope: e, body: body}
	switch _, err := q.put.Do(ctx, m); {
	case errors.Is(err, groupcommit.ErrFull):
		return transport.Receipt{}, transport.ErrOverloaded
	case errors.Is(err, groupcommit.ErrStopped):
		return transport.Receipt{}, transport.ErrStopped
	case err != nil:
		return transport.Receipt{}, fmt.Errorf("queue: not known whether it was stored: %w", err)
	}
	return transport.Receipt{}, nil
}

// store commits a group of new messages, and hands them to the workers without another read where
// there is room.
func (q *Queue) store(ctx context.Context, group []message) ([]struct{}, error) {
	now := sqlite.Micros(q.clock())
	fresh := make([]bool, len(group))
	err := q.db.Tx(ctx, func(tx *sql.Tx) error {
		for i, m := range group {
			// A dead letter that is sent again is the same envelope: it lives again.
			done, err := tx.ExecContext(ctx, `INSERT INTO message (id, service, body, not_before, queued_at) VALUES (?,?,?,?,?)
				ON CONFLICT (id, service) DO UPDATE SET dead = 0, attempts = 0, replays = 0, first_failed = 0, replay_at = 0, not_before = excluded.not_before
				WHERE message.dead = 1`,
				m.id[:], string(m.service), m.body, now, now)
			if err != nil {
				return err
			}
			n, err := done.RowsAffected()
			if err != nil {
				return err
			}
			fresh[i] = n > 0
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, m := range group {
		if fresh[i] {
			q.lanes[m.service].offer(m)
		}
	}
	return make([]struct{}, len(group)), nil
}

// offer gives a message to the workers; when they have enough, the reader finds it in the file.
func (l *lane) offer(m message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.depth++
	if l.taken[m.id] {
		return
	}
	select {
	case l.ready <- m:
		l.taken[m.id] = true
	default:
		l.rouse()
	}
}

func (l *lane) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// readEvery finds messages whose delay is over; everything else wakes the reader.
const readEvery = 25 * time.Millisecond

func (q *Queue) read(ctx context.Context, service transport.Service, l *lane) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	again := time.NewTicker(reviveEvery)
	defer again.Stop()
	for {
		if err := q.fill(ctx, service, l); err != nil && ctx.Err() == nil {
			q.log.WarnContext(ctx, "queue cannot be read; it is tried again", "service", service, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-tick.C:
		case <-again.C:
			if err := q.revive(ctx, service, l); err != nil && ctx.Err() == nil {
				q.log.WarnContext(ctx, "dead letters that are due cannot be replayed; it is tried again", "service", service, "error", err)
			}
		}
	}
}

// fill reads due messages into the free places of ready.
func (q *Queue) fill(ctx context.Context, service transport.Service, l *lane) error {
	l.mu.Lock()
	room, waiting, taken := cap(l.ready)-len(l.ready), l.depth, len(l.taken)
	clear(l.past)
	l.mu.Unlock()
	if room == 0 || waiting <= taken {
		return nil
	}
	rows, err := q.db.Read.QueryContext(ctx, `SELECT id, body, attempts, replays FROM message WHERE service = ? AND dead = 0 AND not_before <= ? ORDER BY not_before LIMIT ?`,
		string(service), sqlite.Micros(q.clock()), room+taken)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		m := message{service: service}
		var mid []byte
		if err := rows.Scan(&mid, &m.body, &m.attempts, &m.replays); err != nil {
			return err
		}
		m.id = id.ID(mid)
		if m.envelope, err = transport.Unmarshal(m.body); err != nil {
			m.die(err)
		}
		l.mu.Lock()
		if !l.taken[m.id] && !l.past[m.id] {
			select {
			case l.ready <- m:
				l.taken[m.id] = true
			default:
			}
		}
		l.mu.Unlock()
	}
	return rows.Err()
}

func (q *Queue) work(ctx context.Context, service transport.Service, l *lane) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-l.ready:
			if ctx.Err() != nil {
				return // it is in the file
			}
			q.deliver(ctx, service, l, m)
		}
	}
}

// deliver runs the handler once and records what came of it. The handler is not cut off by Stop.
func (q *Queue) deliver(ctx context.Context, service transport.Service, l *lane, m message) {
	ctx = context.WithoutCancel(ctx)
	if !m.dead {
		if _, err := q.handlers[service](ctx, m.envelope); err != nil {
			m.failed, m.reason = true, transport.ErrorText(err)
			switch {
			case transport.IsPermanent(err) || m.attempts+1 >= q.opts.Attempts:
				m.die(err)
				if transport.Passing(err) && m.replays < len(q.opts.Pauses) {
					m.pause = q.opts.Pauses[m.replays]
				}
			default:
				m.attempts++
			}
		}
	}
	if m.dead {
		q.log.ErrorContext(ctx, "dead letter", "service", service, "event", m.envelope.Type, "id", m.id, "attempts", m.attempts,
			"reason", m.why, "error", m.reason, "replayed_in", m.pause)
	}
	gone, err := q.done.Do(ctx, m)
	if err != nil {
		q.log.WarnContext(ctx, "what became of a message cannot be recorded; it is delivered again", "service", service, "id", m.id, "error", err)
	}
	l.mu.Lock()
	delete(l.taken, m.id)
	l.past[m.id] = true
	if gone {
		l.depth--
	}
	more := l.depth > len(l.taken)
	l.mu.Unlock()
	if more {
		l.rouse()
	}
}

// die ends a message's last attempt.
func (m *message) die(err error) {
	m.attempts++
	m.dead, m.why, m.reason = true, transport.ReasonOf(err), transport.ErrorText(err)
}

const maxDelay = time.Minute

// conclude commits what became of a group of messages, and returns for each whether it left the
// queue by this call.
func (q *Queue) conclude(ctx context.Context, group []message) ([]bool, error) {
	now := q.clock()
	gone := make([]bool, len(group))
	err := q.db.Tx(ctx, func(tx *sql.Tx) error {
		for i, m := range group {
			var done sql.Result
			var err error
			switch {
			case m.dead:
				var again time.Time
				if m.pause > 0 {
					again = now.Add(m.pause)
				}
				done, err = tx.ExecContext(ctx, `UPDATE message SET dead = 1, attempts = ?, reason = ?, why = ?, died_at = ?,
					first_failed = CASE first_failed WHEN 0 THEN ? ELSE first_failed END, replay_at = ? WHERE id = ? AND service = ? AND dead = 0`,
					m.attempts, m.reason, string(m.why), sqlite.Micros(now), sqlite.Micros(now), sqlite.Micros(again), m.id[:], string(m.service))
			case m.failed:
				delay := min(q.opts.Backoff<<min(m.attempts-1, 20), maxDelay)
				delay = delay/2 + rand.N(delay/2+1)
				_, err = tx.ExecContext(ctx, `UPDATE message SET attempts = ?, reason = ?, not_before = ?,
					first_failed = CASE first_failed WHEN 0 THEN ? ELSE first_failed END WHERE id = ? AND service = ? AND dead = 0`,
					m.attempts, m.reason, sqlite.Micros(now.Add(delay)), sqlite.Micros(now), m.id[:], string(m.service))
			default:
				done, err = tx.ExecContext(ctx, `DELETE FROM message WHERE id = ? AND service = ? AND dead = 0`, m.id[:], string(m.service))
			}
			if err != nil {
				return err
			}
			if done == nil {
				continue
			}
			n, err := done.RowsAffected()
			if err != nil {
				return err
			}
			gone[i] = n > 0
		}
		return nil
	})
	return gone, err
}

// Depths returns how many envelopes wait, and how many are dead letters.
func (q *Queue) Depths(ctx context.Context) (waiting, dead int, err error) {
	err = q.db.Read.QueryRowContext(ctx, `SELECT coalesce(sum(dead = 0), 0), coalesce(sum(dead = 1), 0) FROM message`).Scan(&waiting, &dead)
	if err != nil {
		return 0, 0, fmt.Errorf("queue: %w", err)
	}
	return waiting, dead, nil
}

// Queues returns how many envelopes each service has in the file.
func (q *Queue) Queues(ctx context.Context) ([]transport.QueueLevel, error) {
	rows, err := q.db.Read.QueryContext(ctx, `SELECT service, coalesce(sum(dead = 0 AND attempts = 0), 0), coalesce(sum(dead = 0 AND attempts > 0), 0),
		coalesce(sum(dead = 1), 0) FROM message GROUP BY service`)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	defer func() { _ = rows.Close() }()
	found := map[transport.Service]transport.QueueLevel{}
	for rows.Next() {
		var l transport.QueueLevel
		if err := rows.Scan(&l.Service, &l.Waiting, &l.Retrying, &l.Dead); err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
		found[l.Service] = l
	}
	var all []transport.QueueLevel
	for _, s := range transport.Queued() {
		l := found[s]
		l.Service = s
		all = append(all, l)
	}
	return all, rows.Err()
}

// Stop implements transport.Transport. What has not been delivered stays in the file.
func (q *Queue) Stop(ctx context.Context) error {
	q.mu.Lock()
	was := q.stopped
	q.stopped = true
	q.mu.Unlock()
	if was {
		return nil
	}
	if q.cancel != nil {
		q.cancel()
	}
	done := make(chan struct{})
	go func() {
		q.loops.Wait()
		q.put.Close()
		q.done.Close()
		close(done)
	}()
	select {
	case <-done:
		return q.db.Close()
	case <-ctx.Done():
		return fmt.Errorf("queue: handlers are still running: %w", ctx.Err())
	}
}
