package inproc

import (
	"context"
	"database/sql"
	"errors"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"strings"
	"time"
)

// A dead letter is a row of the queue that nobody delivers. Replaying it makes it a waiting one in
// one statement, so there is no moment at which it is lost or there twice.

const letterColumns = `service, id, length(body), why, reason, attempts, replays, first_failed, died_at, replay_at`

// where is a filter in SQL.
func where(f transport.Filter) (cond string, args []any, err error) {
	conds := []string{"dead = 1"}
	add := func(c string, vs ...any) { conds, args = append(conds, c), append(args, vs...) }
	if f.Service != "" {
		add("service = ?", string(f.Service))
	}
	if f.Reason != "" {
		add("why = ?", string(f.Reason))
	}
	if !f.ID.IsZero() {
		add("id = ?", f.ID[:])
	}
	if !f.Before.IsZero() {
		add("died_at < ?", sqlite.Micros(f.Before))
	}
	if f.After != "" {
		at, err := transport.ParseCursor(f.After)
		if err != nil {
			return "", nil, err
		}
		add("(died_at, service, id) > (?, ?, ?)", sqlite.Micros(at.Died), string(at.Service), at.ID[:])
	}
	return strings.Join(conds, " AND "), args, nil
}

func scanLetter(row interface{ Scan(...any) error }, body *[]byte) (transport.Letter, error) {
	var service, why, text string
	var mid []byte
	var size, attempts, replays int
	var first, died, again int64
	if err := row.Scan(&service, &mid, &size, &why, &text, &attempts, &replays, &first, &died, &again, body); err != nil {
		return transport.Letter{}, err
	}
	l := transport.NewLetter(transport.Service(service), *body)
	l.ID, l.Size = id.ID(mid), size // the row's id is the event's; an unreadable body has none of its own
	l.Queue, l.Route = service, service+"."+l.Type
	l.Reason, l.Error, l.Attempts, l.Replays = transport.Reason(why), text, attempts, replays
	l.FirstFailed, l.Died, l.ReplayAt = sqlite.Time(first), sqlite.Time(died), sqlite.Time(again)
	return l, nil
}

// List implements transport.DeadLetters.
func (q *Queue) List(ctx context.Context, f transport.Filter) (transport.LetterPage, error) {
	page := transport.LetterPage{Letters: []transport.Letter{}}
	cond, args, err := where(f)
	if err != nil {
		return page, err
	}
	size := f.PageSize()
	rows, err := q.db.Read.QueryContext(ctx, `SELECT `+letterColumns+`, body FROM message WHERE `+cond+` ORDER BY died_at, service, id LIMIT ?`,
		append(args, size+1)...)
	if err != nil {
		return page, fmt.Errorf("queue: dead letters: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var body []byte
		l, err := scanLetter(rows, &body)
		if err != nil {
			return page, fmt.Errorf("queue: dead letters: %w", err)
		}
		l.Body = nil
		page.Letters = append(page.Letters, l)
	}
	if err := rows.Err(); err != nil {
		return page, fmt.Errorf("queue: dead letters: %w", err)
	}
	if len(page.Letters) > size {
		page.Letters = page.Letters[:size]
		page.Next = page.Letters[size-1].Cursor()
	}
	return page, nil
}

// Show implements transport.DeadLetters.
func (q *Queue) Show(ctx context.Context, service transport.Service, letter id.ID) (transport.Letter, error) {
	var body []byte
	l, err := scanLetter(q.db.Read.QueryRowContext(ctx, `SELECT `+letterColumns+`, body FROM message WHERE dead = 1 AND service = ? AND id = ?`,
		string(service), letter[:]), &body)
	if errors.Is(err, sql.ErrNoRows) {
		return l, transport.ErrNoLetter
	}
	if err != nil {
		return l, fmt.Errorf("queue: dead letter: %w", err)
	}
	return l, nil
}

type letterKey struct {
	service transport.Service
	id      id.ID
}

// matching returns the letters as they are now, the oldest first.
func (q *Queue) matching(ctx context.Context, f transport.Filter) (keys []letterKey, more bool, err error) {
	f.After = ""
	cond, args, err := where(f)
	if err != nil {
		return nil, false, err
	}
	limit := -1
	if f.Limit > 0 {
		limit = f.Limit + 1
	}
	rows, err := q.db.Read.QueryContext(ctx, `SELECT service, id FROM message WHERE `+cond+` ORDER BY died_at, service, id LIMIT ?`, append(args, limit)...)
	if err != nil {
		return nil, false, fmt.Errorf("queue: dead letters: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var service string
		var mid []byte
		if err := rows.Scan(&service, &mid); err != nil {
			return nil, false, fmt.Errorf("queue: dead letters: %w", err)
		}
		keys = append(keys, letterKey{transport.Service(service), id.ID(mid)})
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("queue: dead letters: %w", err)
	}
	if f.Limit > 0 && len(keys) > f.Limit {
		return keys[:f.Limit], true, nil
	}
	return keys, false, nil
}

func (q *Queue) exec(ctx context.Context, statement string, args ...any) (rows int64, err error) {
	err = q.db.Tx(ctx, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, statement, args...)
		if err != nil {
			return err
		}
		rows, err = done.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("queue: %w", err)
	}
	return rows, nil
}

// Replay implements transport.DeadLetters. A service that does not run here gets its letters when it
// is started.
func (q *Queue) Replay(ctx context.Context, f transport.Filter, perSecond int) (n transport.LetterCount, err error) {
	keys, more, err := q.matching(ctx, f)
	if err != nil {
		return n, err
	}
	pace := transport.NewPace(perSecond)
	for _, k := range keys {
		if err := pace.Wait(ctx); err != nil {
			n.More = true
			return n, err
		}
		l := q.lanes[k.service]
		if l != nil && l.full(q.opts.Depth) {
			n.More = true
			return n, fmt.Errorf("%w: the queue of %s is full; try again when it has been worked off", transport.ErrOverloaded, k.service)
		}
		rows, err := q.exec(ctx, `UPDATE message SET dead = 0, attempts = 0, replays = 0, first_failed = 0, replay_at = 0, not_before = ?
			WHERE dead = 1 AND service = ? AND id = ?`, sqlite.Micros(q.clock()), string(k.service), k.id[:])
		if err != nil {
			n.More = true
			return n, err
		}
		if l != nil {
			l.add(int(rows))
		}
		n.Done += int(rows)
	}
	n.More = more
	return n, nil
}

// Purge implements transport.DeadLetters, in one transaction.
func (q *Queue) Purge(ctx context.Context, f transport.Filter) (n transport.LetterCount, err error) {
	keys, more, err := q.matching(ctx, f)
	if err != nil {
		return n, err
	}
	done := 0
	err = q.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, k := range keys {
			r, err := tx.ExecContext(ctx, `DELETE FROM message WHERE dead = 1 AND service = ? AND id = ?`, string(k.service), k.id[:])
			if err != nil {
				return err
			}
			rows, err := r.RowsAffected()
			if err != nil {
				return err
			}
			done += int(rows)
		}
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("queue: %w", err)
	}
	return transport.LetterCount{Done: done, More: more}, nil
}

// revive replays the letters whose time has come, a bounded number at once.
func (q *Queue) revive(ctx context.Context, service transport.Service, l *lane) error {
	now := sqlite.Micros(q.clock())
	var due bool
	err := q.db.Read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM message WHERE dead = 1 AND replay_at > 0 AND service = ? AND replay_at <= ?)`,
		string(service), now).Scan(&due)
	if err != nil || !due || l.full(q.opts.Depth) {
		return err
	}
	n, err := q.exec(ctx, `UPDATE message SET dead = 0, attempts = 0, replays = replays + 1, replay_at = 0, not_before = ? WHERE (id, service) IN (
		SELECT id, service FROM message WHERE dead = 1 AND replay_at > 0 AND service = ? AND replay_at <= ? ORDER BY replay_at LIMIT ?)`,
		now, string(service), now, revivePerSecond/int(time.Second/reviveEvery))
	l.add(int(n))
	return err
}

const (
	reviveEvery     = 200 * time.Millisecond
	revivePerSecond = transport.DefaultRate
)

func (l *lane) full(depth int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.depth >= depth
}

// add counts messages that came into the queue's file, and has them read.
func (l *lane) add(n int) {
	if n == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.depth += n
	l.rouse()
}
