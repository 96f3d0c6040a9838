package inventorytest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// History records calls made at the same time, each with a moment before it began and one after it
// had ended, for the linearizability checker. Moments are numbers in the order they were asked for.
type History struct {
	moments atomic.Int64
	mu      sync.Mutex
	calls   []porcupine.Operation
}

// Now returns the next moment.
func (h *History) Now() int64 { return h.moments.Add(1) }

// Add records what was asked and answered between two moments.
func (h *History) Add(asked, answered any, began, ended int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, porcupine.Operation{Input: asked, Output: answered, Call: began, Return: ended})
}

// checkBound bounds the search for an order. A history that needs longer is too long for a test.
const checkBound = time.Minute

// Linearizable reports whether there is one order of the calls, which none of those that had ended
// before another began comes after, in which the model gives the same answers. It fails the test
// when that cannot be said in time.
func (h *History) Linearizable(t testing.TB, m porcupine.Model) bool {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	result := porcupine.CheckOperationsTimeout(m, h.calls, checkBound)
	if result == porcupine.Unknown {
		t.Fatalf("%d calls could not be put in order within %s", len(h.calls), checkBound)
	}
	return result == porcupine.Ok
}

// Check fails the test when there is no such order, and shows the calls.
func (h *History) Check(t testing.TB, m porcupine.Model) {
	t.Helper()
	if h.Linearizable(t, m) {
		return
	}
	slices.SortFunc(h.calls, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var text strings.Builder
	for _, c := range h.calls {
		fmt.Fprintf(&text, "%4d–%4d  %+v → %+v\n", c.Call, c.Return, c.Input, c.Output)
	}
	t.Fatalf("no order of these %d calls has these answers:\n%s", len(h.calls), text.String())
}
