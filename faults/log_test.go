//go:build faults

package faults

import (
	"flashsale/id"
	"flashsale/reservation"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// entry is one line of the crowd's log: what somebody was told of a reservation.
type entry struct {
	id     id.ID
	step   string // reserve, cancel, pay or refund
	answer string
}

// none stands for no row in the ledger.
const none reservation.State = "none"

// after says which states a reservation may be in when everything is over, once a step was answered so, and it was the
// last one. silence is no answer in the time that a shopper has, an answer that breaks off included.
func after() map[string][]reservation.State {
	const (
		expired, cancelled, declined = reservation.Expired, reservation.Cancelled, reservation.Declined
		paid, refunded, refused      = reservation.Paid, reservation.Refunded, reservation.Refused
	)
	return map[string][]reservation.State{
		"reserve held":              {expired},
		"reserve over":              {expired},
		"reserve accepted":          {expired, refused}, // decided, whichever way
		"reserve refused after all": {refused},
		"reserve refused":           {none, refused},
		"reserve unsure refusal":    {none, refused, expired}, // a request of the same key may have been held, and be over
		"reserve silence":           {none, refused, expired},
		"cancel cancelled":          {cancelled},
		"cancel accepted":           {cancelled, expired}, // the hold may be over before, or the broker lose it
		"cancel over":               {expired},
		"cancel silence":            {cancelled, expired},
		"pay captured":              {paid},
		"pay declined":              {declined},
		"pay over":                  {expired},
		"pay accepted":              {paid, declined, expired},
		"pay silence":               {paid, declined, expired},
		"refund refunded":           {refunded},
		"refund accepted":           {refunded},
		"refund silence":            {paid, refunded},
	}
}

// allowed returns the states that a reservation may be in after everything that was said of it, in this order. Of the
// last step every answer must be true; an acknowledgement is worth more than what a repetition of it was told.
func allowed(said []entry) []reservation.State {
	rules := after()
	last := said[len(said)-1].step
	var states []reservation.State
	acknowledged := slices.ContainsFunc(said, func(e entry) bool {
		return e.step == "reserve" && (e.answer == "held" || e.answer == "accepted" || e.answer == "over")
	})
	for _, e := range said {
		if e.step != last || acknowledged && (e.answer == "unsure refusal" || e.answer == "refused") {
			continue
		}
		may := rules[e.step+" "+e.answer]
		if states == nil {
			states = slices.Clone(may)
		}
		states = slices.DeleteFunc(states, func(s reservation.State) bool { return !slices.Contains(may, s) })
	}
	return states
}

// compare holds the log against the ledger: each reservation is its shopper's, with its quantity, in a state that what
// was said of it allows, and there is none that nobody asked for.
func compare(wishes map[id.ID]wish, log []entry, rows map[id.ID]fact) (wrong []string) {
	said := map[id.ID][]entry{}
	for _, e := range log {
		said[e.id] = append(said[e.id], e)
	}
	for rid, es := range said {
		row, there := rows[rid]
		if !there {
			row.state = none
		}
		w := wishes[rid]
		if may := allowed(es); !slices.Contains(may, row.state) {
			wrong = append(wrong, fmt.Sprintf("reservation %s is %s; what was said of it allows %v: %s", rid, row.state, may, story(es)))
		}
		if there && (row.quantity != w.quantity || row.user != w.buyer.id) {
			wrong = append(wrong, fmt.Sprintf("reservation %s is of %d units for %s; %s wanted %d", rid, row.quantity, row.user, w.buyer.id, w.quantity))
		}
	}
	for rid, row := range rows {
		if _, asked := said[rid]; !asked {
			wrong = append(wrong, fmt.Sprintf("reservation %s, of %d units, %s, was asked for by nobody", rid, row.quantity, row.state))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// owed reports whether a refund that somebody was told of has not come to the ledger: the money goes back first, and the
// units follow, seconds later when the inventory service was away. Until then what is sold is not what it will be.
func owed(log []entry, rows map[id.ID]fact) bool {
	return slices.ContainsFunc(log, func(e entry) bool {
		return e.step == "refund" && (e.answer == "refunded" || e.answer == "accepted") && rows[e.id].state != reservation.Refunded
	})
}

func story(es []entry) string {
	var parts []string
	for _, e := range es {
		parts = append(parts, e.step+" "+e.answer)
	}
	return strings.Join(parts, ", ")
}

// TestLog: a ledger that is not what the crowd was told is noticed, and one that is passes.
func TestLog(t *testing.T) {
	t.Parallel()
	rid, other, who := id.Derive("rid"), id.Derive("other"), id.Derive("who")
	for _, c := range []struct {
		said    string
		state   reservation.State
		mistake bool
	}{
		{"reserve held", reservation.Expired, false},
		{"reserve held", none, true}, // lost
		{"reserve held", reservation.Paid, true},
		{"reserve accepted", none, true}, // never decided
		{"reserve accepted,reserve held", reservation.Refused, true},
		{"reserve accepted,reserve refused after all", reservation.Refused, false},
		{"reserve refused", none, false},
		{"reserve refused", reservation.Expired, true}, // refused, and held all the same
		{"reserve unsure refusal", reservation.Expired, false},
		{"reserve held,reserve unsure refusal", none, true},
		{"reserve held,cancel cancelled", reservation.Cancelled, false},
		{"reserve held,cancel cancelled", reservation.Expired, true},
		{"reserve held,cancel accepted", reservation.Expired, false},
		{"reserve held,pay captured", reservation.Paid, false},
		{"reserve held,pay captured", reservation.Expired, true},
		{"reserve held,pay captured", reservation.Refunded, true},
		{"reserve held,pay accepted,pay declined", reservation.Paid, true},
		{"reserve held,pay accepted,pay accepted,pay captured,pay captured", reservation.Paid, false},
		{"reserve held,pay captured,refund refunded", reservation.Refunded, false},
		{"reserve held,pay captured,refund accepted", reservation.Paid, true},
		{"reserve held,pay captured,refund silence", reservation.Paid, false},
	} {
		var es []entry
		for part := range strings.SplitSeq(c.said, ",") {
			step, answer, _ := strings.Cut(part, " ")
			if _, known := after()[part]; !known {
				t.Fatalf("nobody is told %q", part)
			}
			es = append(es, entry{rid, step, answer})
		}
		rows := map[id.ID]fact{}
		if c.state != none {
			rows[rid] = fact{who, 2, c.state}
		}
		if late := c.state == reservation.Paid && strings.Contains(c.said, "refund") && !strings.HasSuffix(c.said, "silence"); owed(es, rows) != late {
			t.Errorf("%s, and it is %s: owed %v", c.said, c.state, !late)
		}
		if wrong := compare(map[id.ID]wish{rid: {buyer: buyer{id: who}, quantity: 2}}, es, rows); (len(wrong) > 0) != c.mistake {
			t.Errorf("%s, and it is %s: %q", c.said, c.state, wrong)
		}
	}
	for name, rows := range map[string]map[id.ID]fact{
		"another quantity":     {rid: {who, 4, reservation.Expired}},
		"another's":            {rid: {other, 2, reservation.Expired}},
		"nobody asked for one": {rid: {who, 2, reservation.Expired}, other: {who, 2, reservation.Expired}},
	} {
		if compare(map[id.ID]wish{rid: {buyer: buyer{id: who}, quantity: 2}}, []entry{{rid, "reserve", "held"}}, rows) == nil {
			t.Errorf("%s is not noticed", name)
		}
	}
}
