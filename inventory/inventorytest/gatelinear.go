package inventorytest

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// What is asked of one bucket of a gate, and answered. An inventory.Take is answered by a
// gateTaken, an inventory.Credit by a gateCredited, the rest by an inventory.Level or nothing.
type (
	gateTaken struct {
		taken inventory.Taken
		err   error
	}
	gateAbort    struct{ take inventory.Take }
	gateSettle   struct{ take inventory.Take }
	gateWithdrew struct{ take inventory.Take } // answered by whether it was
	gateDue      struct{ now time.Time }       // answered by how many there are
	gateRead     struct{}
	gateCredited struct {
		applied int64
		err     error
	}
)

// GateModel is one open bucket of a gate: a counter with pending takes and the shoppers' units. A
// take that is repeated while it is pending is one take; one that was given back can be taken again; one that Overdue has
// handed over cannot be withdrawn.
func GateModel(open inventory.Level) porcupine.Model {
	return porcupine.Model{
		Init: func() any {
			return model{level: open, users: map[id.ID]int{}, pending: map[id.ID]inventory.Take{}, handed: map[id.ID]bool{}}
		},
		Step: func(state, asked, answered any) (bool, any) {
			was := state.(model)
			m := model{level: was.level, users: maps.Clone(was.users), pending: maps.Clone(was.pending), handed: maps.Clone(was.handed)}
			switch a := asked.(type) {
			case inventory.Take:
				taken, err := m.take(a)
				got := answered.(gateTaken)
				return got.taken == taken && errors.Is(got.err, err), m
			case gateAbort:
				m.conclude(a.take, true)
			case gateSettle:
				m.conclude(a.take, false)
			case gateWithdrew:
				return answered == m.withdraw(a.take), m
			case gateDue:
				return answered == m.overdue(a.now), m
			case inventory.Credit:
				applied, err := m.credit(open.Epoch, a)
				return answered == gateCredited{applied, err}, m
			case gateRead:
				return answered == m.level, m
			}
			return true, m
		},
		Equal: func(a, b any) bool {
			m, n := a.(model), b.(model)
			return m.level == n.level && maps.Equal(m.users, n.users) && maps.Equal(m.pending, n.pending) && maps.Equal(m.handed, n.handed)
		},
	}
}

// linearStock is small, so that the last units are fought for.
const linearStock = 12

// RecordGate has several clients use one bucket of a gate at the same time, repeat each other's
// takes, settle them and give them back, and returns what they saw, and the model that must explain it.
func RecordGate(t *testing.T, g Gate, round int) (*History, porcupine.Model) {
	t.Helper()
	b := bucket(t, fmt.Sprintf("L%d", round), 0)
	open := inventory.Level{Epoch: 1, Available: linearStock}
	must(t, g.Install(t.Context(), b, open, nil))
	h := &History{}
	var mu sync.Mutex
	var takes []inventory.Take
	known := func(k int) (inventory.Take, bool) {
		mu.Lock()
		defer mu.Unlock()
		if len(takes) == 0 {
			return inventory.Take{}, false
		}
		return takes[k%len(takes)], true
	}
	var clients sync.WaitGroup
	for c := range 6 {
		random := rand.New(rand.NewPCG(uint64(round), uint64(c)))
		clients.Go(func() {
			for range 14 {
				old, any := known(random.IntN(100))
				switch op := random.IntN(13); {
				case op < 5 || !any:
					k := take(b, 1, user(random.IntN(4)), 1+random.IntN(2))
					k.Limit = random.IntN(6)
					k.Deadline = epoch0.Add(time.Duration(1+random.IntN(3)) * time.Minute)
					if any && random.IntN(4) == 0 {
						k = old // somebody's retry, perhaps while the first try is under way
					} else {
						mu.Lock()
						takes = append(takes, k)
						mu.Unlock()
					}
					began := h.Now()
					taken, err := g.Take(t.Context(), k)
					h.Add(k, gateTaken{taken, err}, began, h.Now())
				case op < 7:
					h.conclude(t.Context(), t, gateAbort{old}, g.Abort, old)
				case op < 8:
					h.conclude(t.Context(), t, gateSettle{old}, g.Settle, old)
				case op < 9:
					level := h.read(t, g, b)
					k := inventory.Credit{Bucket: b, Seq: level.Seq + 1, Qty: 1, User: user(random.IntN(4))}
					began := h.Now()
					applied, err := g.Credit(t.Context(), b, 1, []inventory.Credit{k})
					h.Add(k, gateCredited{applied, err}, began, h.Now())
				case op < 11:
					began := h.Now()
					all, err := g.Withdraw(t.Context(), []inventory.TakeRef{ref(old)})
					if err != nil {
						t.Error(err)
					}
					h.Add(gateWithdrew{old}, all, began, h.Now())
				case op < 12:
					now := epoch0.Add(time.Duration(1+random.IntN(2)) * time.Minute)
					began := h.Now()
					due, err := g.Overdue(t.Context(), b, now, 100)
					if err != nil {
						t.Error(err)
					}
					h.Add(gateDue{now}, len(due), began, h.Now())
				default:
					h.read(t, g, b)
				}
			}
		})
	}
	clients.Wait()
	h.read(t, g, b)
	return h, GateModel(open)
}

func (h *History) conclude(ctx context.Context, t *testing.T, what any, f func(context.Context, []inventory.TakeRef) error, k inventory.Take) {
	began := h.Now()
	if err := f(ctx, []inventory.TakeRef{ref(k)}); err != nil {
		t.Error(err)
	}
	h.Add(what, nil, began, h.Now())
}

func (h *History) read(t *testing.T, g Gate, b inventory.BucketID) inventory.Level {
	began := h.Now()
	levels, err := g.Levels(t.Context(), []inventory.BucketID{b})
	if err != nil || len(levels) != 1 {
		t.Errorf("levels %v, %v", levels, err)
		return inventory.Level{}
	}
	h.Add(gateRead{}, levels[0], began, h.Now())
	return levels[0]
}

// RecordTakes has several clients take single units of one bucket, more than there are.
func RecordTakes(t *testing.T, g Gate) (*History, porcupine.Model) {
	t.Helper()
	b := bucket(t, "takes", 0)
	open := inventory.Level{Epoch: 1, Available: linearStock}
	must(t, g.Install(t.Context(), b, open, nil))
	h := &History{}
	var clients sync.WaitGroup
	for c := range 6 {
		clients.Go(func() {
			for n := range 4 {
				k := take(b, 1, user(10*c+n), 1)
				began := h.Now()
				taken, err := g.Take(t.Context(), k)
				h.Add(k, gateTaken{taken, err}, began, h.Now())
			}
		})
	}
	clients.Wait()
	h.read(t, g, b)
	return h, GateModel(open)
}

// ExerciseGateOrder checks that what clients see of one bucket at the same time could have happened
// one call after the other.
func ExerciseGateOrder(t *testing.T, g Gate) {
	t.Helper()
	for round := range 10 {
		h, m := RecordGate(t, g, round)
		h.Check(t, m)
	}
}
