package inventory_test

import (
	"flashsale/inventory"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		available []int64
		tail      int
		want      []inventory.Shift
	}{
		"no bucket":                     {nil, 0, nil},
		"one bucket":                    {[]int64{3}, 0, nil},
		"nothing left":                  {[]int64{0, 0, 0}, 0, nil},
		"even":                          {[]int64{100, 100, 100, 100}, 0, nil},
		"uneven, none dry":              {[]int64{160, 40, 100, 100}, 0, nil},
		"one dry":                       {[]int64{0, 100, 100}, 0, []inventory.Shift{{From: 1, To: 0, Qty: 34}, {From: 2, To: 0, Qty: 32}}},
		"the tail goes to one":          {[]int64{3, 0, 5, 1}, 2, []inventory.Shift{{From: 0, To: 2, Qty: 3}, {From: 3, To: 2, Qty: 1}}},
		"the tail is where it belongs":  {[]int64{0, 0, 9}, 2, nil},
		"a move has an end":             {[]int64{0, 8_000_000}, 0, []inventory.Shift{{From: 1, To: 0, Qty: 1_000_000}}},
		"the last unit, somewhere else": {[]int64{0, 1}, 0, []inventory.Shift{{From: 1, To: 0, Qty: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := inventory.Plan(c.available, c.tail); !slices.Equal(got, c.want) {
				t.Fatalf("%v, want %v", got, c.want)
			}
		})
	}
}

// TestPlanMovesWhatIsThere: a plan never moves more than a bucket has, keeps the sum, and after at
// most a few rounds there is nothing left to plan.
func TestPlanMovesWhatIsThere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		available := rapid.SliceOfN(rapid.Int64Range(0, 50_000), 1, 16).Draw(t, "available")
		tail := rapid.IntRange(0, len(available)-1).Draw(t, "tail")
		var sum int64
		for _, a := range available {
			sum += a
		}
		for round := 0; ; round++ {
			plan := inventory.Plan(available, tail)
			if len(plan) == 0 {
				break
			}
			if round == 3 {
				t.Fatalf("still planning: %v, %v", available, plan)
			}
			for _, s := range plan {
				if s.From == s.To || s.Qty < 1 || s.Qty > available[s.From] {
					t.Fatalf("%v of %v", s, available)
				}
				available[s.From] -= s.Qty
				available[s.To] += s.Qty
			}
		}
		for _, a := range available {
			sum -= a
		}
		if sum != 0 {
			t.Fatalf("%d units were made or lost", -sum)
		}
	})
}
