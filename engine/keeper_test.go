package engine_test

import (
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/memstock"
	"flashsale/reservation"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"
)

// levels returns what each bucket has available at the gate, which must be what the ledger has.
func (d *desk) levels() []int64 {
	d.t.Helper()
	rows, err := d.ledger.Buckets(d.t.Context(), nil)
	must(d.t, err)
	ids := make([]inventory.BucketID, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	levels, err := d.gate.Levels(d.t.Context(), ids)
	must(d.t, err)
	out := make([]int64, len(rows))
	for i, l := range levels {
		out[i] = l.Available
		if !l.Away && (l.Available != rows[i].Available() || l.Epoch != rows[i].Epoch || l.Pending != 0 || l.Seq != rows[i].CreditSeq) {
			d.t.Fatalf("bucket %d: gate %+v, ledger %+v", i, l, rows[i])
		}
	}
	return out
}

// pass lets the keeper tell the gate and look at everything until nothing moves any more.
func (d *desk) pass() {
	d.t.Helper()
	for range 3 {
		d.ahead += time.Minute // everything is looked at again
		d.keeper.Tell(d.t.Context())
		must(d.t, d.keeper.RunOnce(d.t.Context()))
	}
	d.keeper.Tell(d.t.Context())
}

func (d *desk) buy(who string, qty int) error {
	req := d.request(who, "k")
	req.Quantity = qty
	_, err := d.reserve.Reserve(d.t.Context(), req, "")
	return err
}

func TestTailIsDrainedToOneBucket(t *testing.T) {
	t.Parallel()
	d := openDesk(t, 10, 4, 0) // 3, 3, 2, 2
	d.pass()
	got := d.levels()
	slices.Sort(got)
	if !slices.Equal(got, []int64{0, 0, 0, 10}) {
		t.Fatalf("available %v, want the tail in one bucket", got)
	}
	// Whoever comes, from whichever home shard, gets one, down to the last; then all is held.
	for n := range 10 {
		must(t, d.buy(fmt.Sprint("shopper ", n), 1))
	}
	if err := d.buy("late", 1); !errors.Is(err, reservation.ErrHeldOut) {
		t.Fatalf("one too many: %v", err)
	}
	d.pass()
	d.levels()
}

func TestDryBucketIsFilled(t *testing.T) {
	t.Parallel()
	d := openDesk(t, 400, 4, 0) // 100 each
	must(t, d.buy("big", 95))
	d.pass()
	got := d.levels()
	var sum int64
	for _, n := range got {
		sum += n
		if n < 30 {
			t.Errorf("available %v: a bucket is dry", got)
		}
	}
	if sum != 305 {
		t.Errorf("available %v, in sum %d, want 305", got, sum)
	}
}

func TestManyUnitsOverSeveralBuckets(t *testing.T) {
	t.Parallel()
	d := openDesk(t, 400, 4, 0)
	must(t, d.buy("whale", 350)) // more than any bucket has
	if err := d.buy("second", 60); !errors.Is(err, reservation.ErrHeldOut) {
		t.Fatalf("more than is left: %v", err)
	}
	must(t, d.buy("third", 50))
	d.pass()
	if got := d.levels(); !slices.Equal(got, []int64{0, 0, 0, 0}) {
		t.Errorf("available %v", got)
	}
}

// TestShardIsGone: the ledger has stock on four shards, the gate has only two left. What the others
// had is sold nevertheless, and what was held there comes back.
func TestShardIsGone(t *testing.T) {
	t.Parallel()
	d := openDesk(t, 400, 4, 0)
	for n := range 40 {
		must(t, d.buy(fmt.Sprint("early ", n), 1))
	}
	small := memstock.New(2)
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	d.restart(small, log)
	d.pass()
	got := d.levels()
	if got[2] != 0 || got[3] != 0 || got[0]+got[1] != 360 {
		t.Fatalf("available %v, want 360 on the two that are left", got)
	}
	must(t, d.buy("whale", 360))
	if err := d.buy("late", 1); !errors.Is(err, reservation.ErrHeldOut) {
		t.Fatalf("one too many: %v", err)
	}
	for n := range 40 {
		r := d.request(fmt.Sprint("early ", n), "k")
		_, err := d.reserve.Cancel(t.Context(), r.User, r.ID(), "")
		must(t, err)
	}
	d.pass()
	if got := d.levels(); got[0]+got[1] != 40 {
		t.Fatalf("available %v after 40 were given back, some of them on shards that are gone", got)
	}
	must(t, d.buy("patient", 40))
}

// TestShardIsAdded: items that were there before get buckets on it, and stock when they run dry.
func TestShardIsAdded(t *testing.T) {
	t.Parallel()
	d := openDesk(t, 400, 1, 0)
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	d.restart(memstock.New(3), log)
	d.pass()
	if got := d.levels(); len(got) != 3 || slices.Min(got) < 100 {
		t.Fatalf("available %v, want some on each of three", got)
	}
}

// TestTransferIsOrphaned: a process dies between the donor's take and the ledger. The units come
// back to the donor; had the ledger moved them, they would not.
func TestTransferIsOrphaned(t *testing.T) {
	t.Parallel()
	for name, moved := range map[string]bool{"before the ledger": false, "after the ledger": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDesk(t, 400, 2, 0)
			from := inventory.BucketID{Item: d.item}
			leg := inventory.Leg{Take: id.New(time.Now()), Bucket: from, Epoch: 2, Qty: 40}
			_, err := d.gate.Take(t.Context(), inventory.Take{ID: leg.Take, Bucket: from, Epoch: 2, Qty: 40, Deadline: time.Now().Add(-time.Second)})
			must(t, err)
			want := []int64{200, 200}
			if moved {
				_, err := d.ledger.Transfer(t.Context(), inventory.Transfer{Leg: leg, To: 1})
				must(t, err)
				want = []int64{160, 240}
			}
			d.pass()
			if got := d.levels(); !slices.Equal(got, want) {
				t.Fatalf("available %v, want %v", got, want)
			}
		})
	}
}

// TestGateIsWiped: after a loss of everything the gate has again what the ledger has left.
func TestGateIsWiped(t *testing.T) {
	t.Parallel()
	d := openDesk(t, 400, 4, 0)
	must(t, d.buy("ann", 30))
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	d.restart(memstock.New(4), log)
	if err := d.buy("ben", 1); !errors.Is(err, reservation.ErrUncertain) {
		t.Fatalf("at an empty gate: %v, want it unknown, not sold out", err)
	}
	d.pass()
	var sum int64
	for _, n := range d.levels() {
		sum += n
	}
	if sum != 370 {
		t.Fatalf("available %d, want 370", sum)
	}
}

// restart builds everything anew over the ledger, with another gate.
func (d *desk) restart(gate *memstock.Gate, log *slog.Logger) {
	d.t.Helper()
	d.gate = gate
	d.wire(log)
}
