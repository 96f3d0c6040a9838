package amqp_test

import (
	"context"
	"flashsale/testenv"
	"flashsale/transport"
	"flashsale/transport/amqp"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// With this variable the test binary is a consumer: the folder in which it notes what it has handled.
const consumeIn = "FLASHSALE_TEST_CONSUME_IN"

const (
	deadlyEvent = 40  // kills whoever handles it
	massacres   = 8   // crashes with a prefetch in hand, before those by the deadly envelope
	crashes     = 25  // in all at least: more than the delivery limit
	envelopes   = 200 // more than a prefetch
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(consumeIn); dir != "" {
		consumeUntilKilled(dir)
		return
	}
	os.Exit(m.Run())
}

func crashOptions(url string) amqp.Options {
	o := options(url)
	o.Workers, o.DeliveryLimit, o.Log = 64, 20, slog.New(slog.DiscardHandler)
	return o
}

// consumeUntilKilled handles envelopes, a file each, and dies of the deadly one. With the file "massacre"
// there it handles one, and dies of having many others in its hands.
func consumeUntilKilled(dir string) {
	die := func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} }
	_, massacre := os.Stat(filepath.Join(dir, "massacre"))
	hold := make(chan struct{}, 1000)
	tr := amqp.New(crashOptions(os.Getenv("AMQP_URL")))
	tr.Handle(transport.Inventory, func(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		if e.ID == event(deadlyEvent).ID {
			time.Sleep(20 * time.Millisecond) // its work: those beside it are in other hands by then, and not done
			die()
		}
		if massacre == nil && len(hold) > 0 {
			time.AfterFunc(100*time.Millisecond, die) // with all that it could get in its hands
			select {}                                 // in mid-group: nothing of it is acknowledged
		}
		hold <- struct{}{}
		time.Sleep(40 * time.Millisecond) // its work: others are in hand meanwhile
		f, err := os.OpenFile(filepath.Join(dir, e.ID.String()), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString("x")
			_ = f.Close()
		}
		return nil, err
	})
	if err := tr.Start(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for range time.Tick(20 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "enough")); err == nil {
			_ = tr.Stop(context.Background())
			return
		}
	}
}

// consumer runs a consumer process until it ends. It reports whether it was killed.
func consumer(t *testing.T, url, dir string) (killed bool) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), consumeIn+"="+dir, "AMQP_URL="+url)
	cmd.Stderr = t.Output()
	err = cmd.Run()
	if err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("consumer: %v", err)
	}
	return err != nil
}

// TestCrashLoops: a message kills its consumer each time, until it has used up its deliveries; before
// that consumers died with a hand full of messages. Only the deadly one is a dead letter, and all the
// others are handled.
func TestCrashLoops(t *testing.T) {
	t.Parallel()
	url, dir := testenv.RabbitMQ(t), t.TempDir()
	o := crashOptions(url)
	tr := start(t, o, nil)
	for n := range envelopes {
		if _, err := tr.Send(t.Context(), transport.Inventory, event(n)); err != nil {
			t.Fatal(err)
		}
	}
	note := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	massacre := note("massacre")
	for range massacres {
		if !consumer(t, url, dir) {
			t.Fatal("the consumer with its hands full lives")
		}
	}
	_ = os.Remove(massacre)
	ended := make(chan struct{})
	died := 0
	go func() {
		defer close(ended)
		for consumer(t, url, dir) {
			if died++; died > 2*crashes {
				t.Errorf("%d consumers have died", died)
				return
			}
		}
	}()
	missing := func() (n int, twice int) {
		for i := range envelopes {
			b, err := os.ReadFile(filepath.Join(dir, event(i).ID.String()))
			if err != nil {
				n++
			}
			if len(b) > 1 {
				twice++
			}
		}
		return n, twice
	}
	for deadline := time.Now().Add(90 * time.Second); ; {
		n, _ := missing()
		_, dead, err := tr.Depths(t.Context())
		if n == 1 && err == nil && dead == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d are not handled, %d dead letters, %v; %d consumers have died", n, envelopes, dead, err, died)
		}
		time.Sleep(50 * time.Millisecond) // polls a condition; there is no event to wait for
	}
	note("enough")
	<-ended
	page, err := tr.List(t.Context(), transport.Filter{})
	if err != nil || len(page.Letters) != 1 || page.Letters[0].ID != event(deadlyEvent).ID || page.Letters[0].Reason != transport.ReasonAttempts {
		t.Fatalf("dead letters %+v, %v", page.Letters, err)
	}
	_, twice := missing()
	t.Logf("%d consumers died, %d envelopes were handled twice", died+massacres, twice)
	if died+massacres < crashes {
		t.Errorf("only %d consumers died", died+massacres)
	}
}
