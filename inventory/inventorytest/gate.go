// Package inventorytest holds the suites that every gate and every ledger passes.
package inventorytest

import (
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Gate is what the suite exercises: both sides of one gate.
type Gate interface {
	inventory.Gate
	inventory.Keeper
}

var epoch0 = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

func user(n int) id.ID { return id.Derive("user", fmt.Sprint(n)) }

func bucket(t *testing.T, sku string, shard int) inventory.BucketID {
	return inventory.BucketID{Item: inventory.ItemID{Sale: id.Derive("sale", t.Name()), SKU: sku}, Shard: shard}
}

func take(b inventory.BucketID, epoch int64, who id.ID, qty int) inventory.Take {
	return inventory.Take{ID: id.New(epoch0), Bucket: b, Epoch: epoch, User: who, Qty: qty, Deadline: epoch0.Add(time.Minute)}
}

func ref(t inventory.Take) inventory.TakeRef {
	return inventory.TakeRef{ID: t.ID, Bucket: t.Bucket, Epoch: t.Epoch}
}

// ExerciseGate runs the suite; open returns a gate of at least two shards in which nothing is installed.
func ExerciseGate(t *testing.T, open func(t *testing.T) Gate) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Gate){
		"closed until installed":            gateClosed,
		"an epoch must rise":                gateEpochs,
		"take, short, limit":                gateTake,
		"a repeated take is one take":       gateRepeat,
		"settle and abort, twice":           gateConclude,
		"withdraw what nobody else has":     gateWithdraw,
		"fenced takes and refs are ignored": gateFenced,
		"credits in order only":             gateCredits,
		"overdue takes":                     gateOverdue,
		"install brings the shoppers":       gateInstallUsers,
		"buckets do not touch":              gateIndependent,
		"the crowd gets exactly the stock":  gateCrowd,
		"one shopper many times at once":    gateOneShopper,
		"any sequence, against a model":     gateModel,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

func wantLevel(t testing.TB, g Gate, b inventory.BucketID, want inventory.Level) {
	t.Helper()
	got, err := g.Levels(t.Context(), []inventory.BucketID{b})
	must(t, err)
	if len(got) != 1 || got[0] != want {
		t.Fatalf("level %+v, want %+v", got, want)
	}
}

func install(t testing.TB, g Gate, b inventory.BucketID, epoch, available int64) {
	t.Helper()
	must(t, g.Install(t.Context(), b, inventory.Level{Epoch: epoch, Available: available}, nil))
}

func gateClosed(t *testing.T, g Gate) {
	b := bucket(t, "A", 0)
	_, err := g.Take(t.Context(), take(b, 0, user(1), 1))
	wantErr(t, err, inventory.ErrClosed)
	_, err = g.Credit(t.Context(), b, 1, []inventory.Credit{{Bucket: b, Seq: 1, Qty: 1}})
	wantErr(t, err, inventory.ErrClosed)
	must(t, g.Settle(t.Context(), []inventory.TakeRef{ref(take(b, 1, user(1), 1))}))
	must(t, g.Abort(t.Context(), []inventory.TakeRef{ref(take(b, 1, user(1), 1))}))
	due, err := g.Overdue(t.Context(), b, epoch0.Add(time.Hour), 10)
	if err != nil || len(due) != 0 {
		t.Fatalf("overdue of a closed bucket: %v, %v", due, err)
	}
	wantLevel(t, g, b, inventory.Level{})
}

func gateEpochs(t *testing.T, g Gate) {
	b := bucket(t, "A", 1)
	install(t, g, b, 5, 10)
	install(t, g, b, 5, 99)
	install(t, g, b, 4, 99)
	wantLevel(t, g, b, inventory.Level{Epoch: 5, Available: 10})
	_, err := g.Take(t.Context(), take(b, 5, user(1), 3))
	must(t, err)
	must(t, g.Install(t.Context(), b, inventory.Level{Epoch: 6, Available: 7, Seq: 4}, nil))
	wantLevel(t, g, b, inventory.Level{Epoch: 6, Available: 7, Seq: 4}) // the pending take is forgotten
	_, err = g.Take(t.Context(), take(b, 5, user(1), 1))
	wantErr(t, err, inventory.ErrFenced)
	_, err = g.Take(t.Context(), take(b, 7, user(1), 1))
	wantErr(t, err, inventory.ErrFenced)
}

func gateTake(t *testing.T, g Gate) {
	b := bucket(t, "A", 0)
	install(t, g, b, 1, 5)
	check := func(who, qty, limit int, want inventory.Taken, wantError error) {
		t.Helper()
		k := take(b, 1, user(who), qty)
		k.Limit = limit
		got, err := g.Take(t.Context(), k)
		if !errors.Is(err, wantError) || got != want {
			t.Fatalf("take of %d by %d: %+v, %v; want %+v, %v", qty, who, got, err, want, wantError)
		}
	}
	check(1, 2, 2, inventory.Taken{UserHas: 0, Available: 3}, nil)
	check(1, 1, 2, inventory.Taken{UserHas: 2, Available: 3}, reservation.ErrLimitReached)
	check(2, 4, 0, inventory.Taken{UserHas: 0, Available: 3}, inventory.ErrShort)
	check(2, 3, 0, inventory.Taken{UserHas: 0, Available: 0}, nil)
	check(2, 1, 0, inventory.Taken{UserHas: 3, Available: 0}, inventory.ErrShort)
	check(1, 1, 2, inventory.Taken{UserHas: 2, Available: 0}, reservation.ErrLimitReached)
	wantLevel(t, g, b, inventory.Level{Epoch: 1, Available: 0, Pending: 5})
}

func gateRepeat(t *testing.T, g Gate) {
	b := bucket(t, "A", 0)
	install(t, g, b, 1, 5)
	k := take(b, 1, user(1), 2)
	k.Limit = 2
	first, err := g.Take(t.Context(), k)
	must(t, err)
	again, err := g.Take(t.Context(), k)
	must(t, err)
	if first != again {
		t.Fatalf("first %+v, again %+v", first, again)
	}
	wantLevel(t, g, b, inventory.Level{Epoch: 1, Available: 3, Pending: 2})
}

func gateConclude(t *testing.T, g Gate) {
	b := bucket(t, "A", 0)
	install(t, g, b, 1, 6)
	settled, aborted := take(b, 1, user(1), 2), take(b, 1, user(2), 3)
	for _, k := range []inventory.Take{settled, aborted} {
		_, err := g.Take(t.Context(), k)
		must(t, err)
	}
	for range 2 {
		must(t, g.Settle(t.Context(), []inventory.TakeRef{ref(settled)}))
		must(t, g.Abort(t.Context(), []inventory.TakeRef{ref(aborted), ref(settled), ref(take(b, 1, user(3), 1))}))
		wantLevel(t, g, b, inventory.Level{Epoch: 1, Available: 4})
	}
	// The settled shopper's units still count against the limit; the aborted one's do not.
	k := take(b, 1, user(1), 1)
	k.Limit = 2
	got, err := g.Take(t.Context(), k)
	wantErr(t, err, reservation.ErrLimitReached)
	if got.UserHas != 2 {
		t.Fatalf("settled shopper has %d, want 2", got.UserHas)
	}
	k = take(b, 1, user(2), 2)
	k.Limit = 2
	if got, err = g.Take(t.Context(), k); err != nil || got.UserHas != 0 {
		t.Fatalf("aborted shopper: %+v, %v", got, err)
	}
	must(t, g.Settle(t.Context(), nil))
	must(t, g.Abort(t.Context(), nil))
}

// gateWithdraw: whoever took a take can have it back until Overdue has handed it over, or it is concluded.
func gateWithdraw(t *testing.T, g Gate) {
	b := bucket(t, "A", 0)
	install(t, g, b, 1, 10)
	var takes []inventory.Take
	for n := range 5 {
		k := take(b, 1, user(n), 1+n%2)
		k.Deadline = epoch0.Add(time.Duration(n) * time.Second)
		_, err := g.Take(t.Context(), k)
		must(t, err)
		takes = append(takes, k)
	}
	withdraw := func(want bool, which ...int) {
		t.Helper()
		refs := []inventory.TakeRef{}
		for _, n := range which {
			refs = append(refs, ref(takes[n]))
		}
		if all, err := g.Withdraw(t.Context(), refs); err != nil || all != want {
			t.Fatalf("withdrawn %t, %v; want %t", all, err, want)
		}
	}
	overdue := func(limit int, want ...int) {
		t.Helper()
		due, err := g.Overdue(t.Context(), b, epoch0.Add(2*time.Second), limit)
		must(t, err)
		var got []int
		for _, p := range due {
			got = append(got, slices.IndexFunc(takes, func(k inventory.Take) bool { return k.ID == p.ID }))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("overdue %v, want %v", got, want)
		}
	}
	withdraw(true)
	withdraw(true, 1)
	withdraw(false, 1) // it is not pending any more
	wantLevel(t, g, b, inventory.Level{Epoch: 1, Available: 5, Pending: 5})
	overdue(1, 0)
	withdraw(false, 0, 4) // the one that was not handed over is back all the same
	wantLevel(t, g, b, inventory.Level{Epoch: 1, Available: 6, Pending: 4})
	earlier := take(b, 1, user(9), 1)
	earlier.Deadline = epoch0.Add(-time.Second)
	_, err := g.Take(t.Context(), earlier)
	must(t, err)
	takes = append(takes, earlier)
	overdue(1, 0) // again, before the one that nobody has
	withdraw(true, 5)
	overdue(10, 0, 2)
	withdraw(false, 2)
	withdraw(true, 3) // it is not due yet
	wantLevel(t, g, b, inventory.Level{Epoch: 1, Available: 8, Pending: 2})
	// Who has them concludes them as ever.
	must(t, g.Abort(t.Context(), []inventory.TakeRef{ref(takes[0])}))
	must(t, g.Settle(t.Context(), []inventory.TakeRef{ref(takes[2])}))
	withdraw(false, 2)
	wantLevel(t, g, b, inventory.Level{Epoch: 1, Available: 9})
	overdue(10)
	k := take(b, 1, user(1), 2) // the limit is free of what was withdrawn
	k.Limit = 2
	if got, err := g.Take(t.Context(), k); err != nil || got.UserHas != 0 {
		t.Fatalf("after the withdrawal: %+v, %v", got, err)
	}
	install(t, g, b, 2, 9)
	if all, err := g.Withdraw(t.Context(), []inventory.TakeRef{ref(k)}); err != nil || all {
		t.Fatalf("of another epoch: withdrawn %t, %v", all, err)
	}
	wantLevel(t, g, b, inventory.Level{Epoch: 2, Available: 9})
}

func gateFenced(t *testing.T, g Gate) {
	b := bucket(t, "A", 0)
	install(t, g, b, 1, 6)
	old := take(b, 1, user(1), 2)
	_, err := g.Take(t.Context(), old)
	must(t, err)
	install(t, g, b, 2, 6)
	fresh := take(b, 2, user(2), 1)
	_, err = g.Take(t.Context(), fresh)
	must(t, err)
	must(t, g.Abort(t.Context(), []inventory.TakeRef{ref(old)}))
	wrong := ref(fresh)
	wrong.Epoch = 1
	must(t, g.Abort(t.Context(), []inventory.TakeRef{wrong}))
	must(t, g.Settle(t.Context(), []inventory.TakeRef{wrong}))
	wantLevel(t, g, b, inventory.Level{Epoch: 2, Available: 5, Pending: 1})
}

func gateCredits(t *testing.T, g Gate) {
	b := bucket(t, "A", 0)
	must(t, g.Install(t.Context(), b, inventory.Level{Epoch: 3, Available: 1, Seq: 7}, nil))
	credit := func(want int64, credits ...inventory.Credit) {
		t.Helper()
		got, err := g.Credit(t.Context(), b, 3, credits)
		if err != nil || got != want {
			t.Fatalf("credit: %d, %v; want %d", got, err, want)
		}
	}
	at := func(seq, qty int64, who id.ID) inventory.Credit {
		return inventory.Credit{Bucket: b, Seq: seq, Qty: qty, User: who}
	}
	credit(7, at(9, 1, id.ID{}))                       // a gap
	credit(7, at(7, 1, id.ID{}), at(6, 1, id.ID{}))    // seen
	credit(9, at(8, 2, id.ID{}), at(9, 3, id.ID{}))    // in order
	credit(10, at(9, 3, id.ID{}), at(10, 1, id.ID{}))  // seen, then next
	credit(10, at(12, 1, id.ID{}), at(12, 1, id.ID{})) // a gap
	wantLevel(t, g, b, inventory.Level{Epoch: 3, Available: 7, Seq: 10})
	_, err := g.Credit(t.Context(), b, 2, []inventory.Credit{at(11, 1, id.ID{})})
	wantErr(t, err, inventory.ErrFenced)

	// A credit relieves its shopper's limit, and nobody's count falls below none.
	k := take(b, 3, user(1), 2)
	_, err = g.Take(t.Context(), k)
	must(t, err)
	must(t, g.Settle(t.Context(), []inventory.TakeRef{ref(k)}))
	credit(13, at(11, 1, user(1)), at(12, 5, user(2)), at(13, 1, user(1)))
	k = take(b, 3, user(1), 2)
	k.Limit = 2
	if got, err := g.Take(t.Context(), k); err != nil || got.UserHas != 0 {
		t.Fatalf("after the credits: %+v, %v", got, err)
	}
}

func gateOverdue(t *testing.T, g Gate) {
	b := bucket(t, "A", 0)
	install(t, g, b, 1, 10)
	var takes []inventory.Take
	for i, after := range []time.Duration{3, 1, 2, 9} {
		k := take(b, 1, user(i), i+1)
		k.Deadline = epoch0.Add(after * time.Second)
		k.Note = []string{"", `{"k":"a b \"c\" ü"}`, "", "never due"}[i] // comes back as it was, spaces too
		_, err := g.Take(t.Context(), k)
		must(t, err)
		takes = append(takes, k)
	}
	due, err := g.Overdue(t.Context(), b, epoch0.Add(3*time.Second), 10)
	must(t, err)
	want := []inventory.Pending{}
	for _, i := range []int{1, 2, 0} {
		want = append(want, inventory.Pending{TakeRef: ref(takes[i]), User: takes[i].User, Qty: takes[i].Qty, Deadline: takes[i].Deadline, Note: takes[i].Note})
	}
	if !slices.Equal(due, want) {
		t.Fatalf("overdue %+v\nwant %+v", due, want)
	}
	if due, err = g.Overdue(t.Context(), b, epoch0.Add(3*time.Second), 2); err != nil || len(due) != 2 || due[0].ID != takes[1].ID {
		t.Fatalf("two of them: %+v, %v", due, err)
	}
	if due, err = g.Overdue(t.Context(), b, epoch0, 10); err != nil || len(due) != 0 {
		t.Fatalf("before any deadline: %+v, %v", due, err)
	}
}

func gateInstallUsers(t *testing.T, g Gate) {
	b := bucket(t, "A", 0)
	users := map[id.ID]int{}
	for i := range 2500 { // more than one piece
		users[user(i)] = 1 + i%3
	}
	must(t, g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 9}, users))
	must(t, g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 9}, map[id.ID]int{user(0): 9})) // ignored
	for _, n := range []int{0, 1, 2, 2499} {
		k := take(b, 1, user(n), 1)
		k.Limit = users[user(n)]
		got, err := g.Take(t.Context(), k)
		if !errors.Is(err, reservation.ErrLimitReached) || got.UserHas != users[user(n)] {
			t.Fatalf("shopper %d: %+v, %v", n, got, err)
		}
	}
	install(t, g, b, 2, 9) // no shoppers: all forgotten
	if got, err := g.Take(t.Context(), take(b, 2, user(2), 1)); err != nil || got.UserHas != 0 {
		t.Fatalf("after the next epoch: %+v, %v", got, err)
	}
}

func gateIndependent(t *testing.T, g Gate) {
	if g.Shards() < 2 {
		t.Fatalf("the suite needs two shards, the gate has %d", g.Shards())
	}
	bs := []inventory.BucketID{bucket(t, "A", 0), bucket(t, "A", 1), bucket(t, "a b{c}:d%", 0), bucket(t, "a b{c}:d", 0)}
	for i, b := range bs {
		install(t, g, b, int64(i+1), 10)
		_, err := g.Take(t.Context(), take(b, int64(i+1), user(1), i+1))
		must(t, err)
	}
	levels, err := g.Levels(t.Context(), append(slices.Clone(bs), bucket(t, "none", 1)))
	must(t, err)
	for i := range bs {
		if want := (inventory.Level{Epoch: int64(i + 1), Available: int64(9 - i), Pending: int64(i + 1)}); levels[i] != want {
			t.Fatalf("bucket %d: %+v, want %+v", i, levels[i], want)
		}
	}
	if levels[len(bs)] != (inventory.Level{}) {
		t.Fatalf("a bucket that is not there: %+v", levels[len(bs)])
	}
}

func gateCrowd(t *testing.T, g Gate) {
	b := bucket(t, "A", 1)
	const stock, crowd = 200, 64
	install(t, g, b, 1, stock)
	var got atomic.Int64
	var wg sync.WaitGroup
	for n := range crowd {
		wg.Go(func() {
			for range 20 {
				k := take(b, 1, user(n), 1+n%3)
				_, err := g.Take(t.Context(), k)
				if errors.Is(err, inventory.ErrShort) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n%5 == 0 {
					if err := g.Abort(t.Context(), []inventory.TakeRef{ref(k)}); err != nil {
						t.Error(err)
					}
					continue
				}
				got.Add(int64(k.Qty))
			}
		})
	}
	wg.Wait()
	wantLevel(t, g, b, inventory.Level{Epoch: 1, Available: stock - got.Load(), Pending: got.Load()})
	if got.Load() < stock-2 { // at most two units are left to those who want three
		t.Fatalf("%d of %d handed out", got.Load(), stock)
	}
}

// gateOneShopper: takes that come together, the same one repeated among them, count one by one.
func gateOneShopper(t *testing.T, g Gate) {
	b := bucket(t, "A", 1)
	const stock, limit, crowd = 1000, 7, 300
	install(t, g, b, 1, stock)
	again := take(b, 1, user(0), 2)
	again.Limit = limit
	var got, repeats atomic.Int64
	var wg sync.WaitGroup
	for n := range crowd {
		wg.Go(func() {
			k := again
			if n%3 > 0 {
				k = take(b, 1, user(0), 1)
				k.Limit = limit
			}
			_, err := g.Take(t.Context(), k)
			switch {
			case err == nil && n%3 == 0:
				repeats.Add(1)
			case err == nil:
				got.Add(1)
			case !errors.Is(err, reservation.ErrLimitReached):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	units := got.Load()
	if repeats.Load() > 0 { // however often it was asked and answered
		units += int64(again.Qty)
	}
	if units > limit || units < limit-1 {
		t.Fatalf("%d units for a shopper who may have %d", units, limit)
	}
	wantLevel(t, g, b, inventory.Level{Epoch: 1, Available: stock - units, Pending: units})
}

// gateModel compares any sequence of operations with a plain model of one bucket.
func gateModel(t *testing.T, g Gate) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		b := bucket(t, fmt.Sprintf("M%d", run), run%2)
		m := model{users: map[id.ID]int{}, pending: map[id.ID]inventory.Take{}, handed: map[id.ID]bool{}}
		var all []inventory.Take
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			epoch := m.level.Epoch + int64(rapid.SampledFrom([]int{0, 0, 0, 0, -1, 1}).Draw(rt, "epoch"))
			switch rapid.IntRange(0, 7).Draw(rt, "op") {
			case 0:
				l := inventory.Level{Epoch: epoch, Available: int64(rapid.IntRange(0, 9).Draw(rt, "available")), Seq: int64(rapid.IntRange(0, 3).Draw(rt, "seq"))}
				users := map[id.ID]int{user(0): rapid.IntRange(1, 2).Draw(rt, "has")}
				must(t, g.Install(t.Context(), b, l, users))
				m.install(l, users)
			case 1, 2:
				k := take(b, epoch, user(rapid.IntRange(0, 2).Draw(rt, "user")), rapid.IntRange(1, 3).Draw(rt, "qty"))
				k.Limit = rapid.IntRange(0, 4).Draw(rt, "limit")
				if len(all) > 0 && rapid.Bool().Draw(rt, "repeat") {
					k = rapid.SampledFrom(all).Draw(rt, "which")
				}
				all = append(all, k)
				got, err := g.Take(t.Context(), k)
				want, wantError := m.take(k)
				if got != want || !errors.Is(err, wantError) {
					rt.Fatalf("take %+v: %+v, %v; the model says %+v, %v", k, got, err, want, wantError)
				}
			case 3, 4:
				if len(all) == 0 {
					continue
				}
				k := rapid.SampledFrom(all).Draw(rt, "which")
				if rapid.Bool().Draw(rt, "abort") {
					must(t, g.Abort(t.Context(), []inventory.TakeRef{ref(k)}))
					m.conclude(k, true)
				} else {
					must(t, g.Settle(t.Context(), []inventory.TakeRef{ref(k)}))
					m.conclude(k, false)
				}
			case 6:
				if len(all) == 0 {
					continue
				}
				k := rapid.SampledFrom(all).Draw(rt, "which")
				got, err := g.Withdraw(t.Context(), []inventory.TakeRef{ref(k)})
				if want := m.withdraw(k); err != nil || got != want {
					rt.Fatalf("withdraw %+v: %t, %v; the model says %t", k, got, err, want)
				}
			case 7:
				now := epoch0.Add(time.Duration(rapid.IntRange(0, 3).Draw(rt, "now")) * 30 * time.Second)
				due, err := g.Overdue(t.Context(), b, now, 100)
				if want := m.overdue(now); err != nil || len(due) != want {
					rt.Fatalf("overdue at %s: %+v, %v; the model has %d", now, due, err, want)
				}
			case 5:
				c := inventory.Credit{Bucket: b, Seq: m.level.Seq + int64(rapid.IntRange(0, 2).Draw(rt, "ahead")), Qty: 1, User: user(0)}
				got, err := g.Credit(t.Context(), b, epoch, []inventory.Credit{c})
				want, wantError := m.credit(epoch, c)
				if got != want || !errors.Is(err, wantError) {
					rt.Fatalf("credit %+v under %d: %d, %v; the model says %d, %v", c, epoch, got, err, want, wantError)
				}
			}
			levels, err := g.Levels(t.Context(), []inventory.BucketID{b})
			if err != nil || levels[0] != m.level {
				rt.Fatalf("level %+v, %v; the model says %+v", levels, err, m.level)
			}
		}
	})
}

type model struct {
	level   inventory.Level
	users   map[id.ID]int
	pending map[id.ID]inventory.Take
	handed  map[id.ID]bool
}

func (m *model) withdraw(k inventory.Take) bool {
	if _, ok := m.pending[k.ID]; !ok || m.handed[k.ID] || m.open(k.Epoch) != nil {
		return false
	}
	m.conclude(k, true)
	return true
}

func (m *model) overdue(now time.Time) (n int) {
	for take, k := range m.pending {
		if !k.Deadline.After(now) {
			m.handed[take] = true
			n++
		}
	}
	return n
}

func (m *model) install(l inventory.Level, users map[id.ID]int) {
	if l.Epoch <= m.level.Epoch {
		return
	}
	m.level, m.users, m.pending, m.handed = l, maps.Clone(users), map[id.ID]inventory.Take{}, map[id.ID]bool{}
	m.level.Pending = 0
}

func (m *model) open(epoch int64) error {
	switch {
	case m.level.Epoch == 0:
		return inventory.ErrClosed
	case m.level.Epoch != epoch:
		return inventory.ErrFenced
	}
	return nil
}

func (m *model) take(k inventory.Take) (inventory.Taken, error) {
	if err := m.open(k.Epoch); err != nil {
		return inventory.Taken{}, err
	}
	a := inventory.Taken{UserHas: m.users[k.User], Available: m.level.Available}
	if _, ok := m.pending[k.ID]; ok {
		a.UserHas -= k.Qty
		return a, nil
	}
	switch {
	case k.Limit > 0 && a.UserHas+k.Qty > k.Limit:
		return a, reservation.ErrLimitReached
	case a.Available < int64(k.Qty):
		return a, inventory.ErrShort
	}
	m.pending[k.ID] = k
	m.users[k.User] += k.Qty
	m.level.Available -= int64(k.Qty)
	m.level.Pending += int64(k.Qty)
	a.Available = m.level.Available
	return a, nil
}

func (m *model) conclude(k inventory.Take, back bool) {
	if _, ok := m.pending[k.ID]; !ok || m.open(k.Epoch) != nil {
		return
	}
	delete(m.pending, k.ID)
	delete(m.handed, k.ID)
	m.level.Pending -= int64(k.Qty)
	if back {
		m.level.Available += int64(k.Qty)
		m.users[k.User] = max(0, m.users[k.User]-k.Qty)
	}
}

func (m *model) credit(epoch int64, c inventory.Credit) (int64, error) {
	if err := m.open(epoch); err != nil {
		return 0, err
	}
	if c.Seq == m.level.Seq+1 {
		m.level.Seq++
		m.level.Available += c.Qty
		m.users[c.User] = max(0, m.users[c.User]-int(c.Qty))
	}
	return m.level.Seq, nil
}
