package inproc_test

import (
	"context"
	"errors"
	"flashsale/database/sqlite"
	"flashsale/transport"
	"flashsale/transport/inproc"
	"flashsale/transport/transporttest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	transporttest.ExerciseDeadLetters(t, func(t *testing.T, r transporttest.Rules) transporttest.Mail {
		path := filepath.Join(t.TempDir(), "queue.db")
		if r.Pauses == nil {
			r.Pauses = []time.Duration{}
		}
		q := open(t, path, inproc.Options{Backoff: time.Millisecond, Attempts: r.Attempts, Pauses: r.Pauses})
		return transporttest.Mail{Transport: q, Letters: q, Put: func(t *testing.T, to transport.Service, body []byte) {
			t.Helper()
			// The file is the queue's own, so a row of somebody else's comes in as a dead one, and is replayed.
			l := transport.NewLetter(to, body)
			run(t, path, `INSERT INTO message (id, service, body, not_before, queued_at, dead) VALUES (?,?,?,0,0,1)`, l.ID[:], string(to), body)
			if n, err := q.Replay(t.Context(), transport.Filter{ID: l.ID}, 0); err != nil || n.Done != 1 {
				t.Fatalf("%+v, %v", n, err)
			}
		}}
	})
}

func run(t *testing.T, path, statement string, args ...any) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Write.ExecContext(t.Context(), statement, args...)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestLettersOfAStoppedQueue: what died in one process is listed and replayed by another that runs no
// handler, and is handled by the next that does.
func TestLettersOfAStoppedQueue(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "queue.db")
	live := func(h transport.Handler, until func(q *inproc.Queue) bool) {
		t.Helper()
		q := open(t, path, inproc.Options{})
		if h != nil {
			q.Handle(transport.Order, h)
		}
		if err := q.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(20 * time.Second); !until(q); <-tick.C {
			if time.Now().After(deadline) {
				t.Fatal("it does not come to that")
			}
		}
		if err := q.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	depths := func(q *inproc.Queue) (int, int) {
		waiting, dead, err := q.Depths(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return waiting, dead
	}
	live(func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		return nil, transport.Permanent(errors.New("never"))
	}, func(q *inproc.Queue) bool {
		if _, err := q.Send(t.Context(), transport.Order, event(1)); err != nil {
			t.Fatal(err)
		}
		_, dead := depths(q)
		return dead == 1
	})
	tool := open(t, path, inproc.Options{})
	all, err := tool.Queues(t.Context())
	if err != nil || len(all) != len(transport.Queued()) {
		t.Fatalf("%+v %v", all, err)
	}
	for _, q := range all {
		if want := (transport.QueueLevel{Service: q.Service, Dead: map[transport.Service]int{transport.Order: 1}[q.Service]}); q != want {
			t.Errorf("%+v, want %+v", q, want)
		}
	}
	page, err := tool.List(t.Context(), transport.Filter{})
	if err != nil || len(page.Letters) != 1 || page.Letters[0].ID != event(1).ID {
		t.Fatalf("%+v, %v", page, err)
	}
	if n, err := tool.Replay(t.Context(), transport.Filter{}, 0); err != nil || n.Done != 1 {
		t.Fatalf("%+v, %v", n, err)
	}
	if waiting, dead := depths(tool); waiting != 1 || dead != 0 {
		t.Fatalf("%d waiting, %d dead", waiting, dead)
	}
	if err := tool.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	live(func(context.Context, transport.Envelope) ([]transport.Envelope, error) { return nil, nil }, func(q *inproc.Queue) bool {
		waiting, dead := depths(q)
		return waiting+dead == 0
	})
}

// TestLettersOfTheFirstSchema: a file of the program's first version keeps its dead letters.
func TestLettersOfTheFirstSchema(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "queue.db")
	first, err := os.ReadFile("migrations/00001_queue.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "00001_queue.sql"), first, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sqlite.Migrate(t.Context(), db, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	died := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	e := event(1)
	body, err := transport.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	run(t, path, `INSERT INTO message (id, service, body, attempts, not_before, queued_at, dead, reason) VALUES (?,'order',?,10,?,?,1,'away')`,
		e.ID[:], body, sqlite.Micros(died), sqlite.Micros(died.Add(-time.Minute)))
	q := open(t, path, inproc.Options{})
	l, err := q.Show(t.Context(), transport.Order, e.ID)
	if err != nil || l.Reason != transport.ReasonAttempts || l.Attempts != 10 || l.Error != "away" || !l.Died.Equal(died) || l.Type != e.Type || !l.ReplayAt.IsZero() {
		t.Errorf("%+v, %v", l, err)
	}
	if err := q.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}
