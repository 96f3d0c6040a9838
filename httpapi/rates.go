package httpapi

import (
	"flashsale/id"
	"strconv"
	"sync"
	"time"
)

// rateWindow is how much of a shopper's rate may be spent at once.
const rateWindow = 4 * time.Second

// maxRated bounds the shoppers remembered in one window. When more come they are forgotten sooner, and
// each may then spend a window's worth once more.
const maxRated = 1 << 16

// rates holds each shopper to a rate of requests. Of a shopper it keeps one time: when everything spent
// will have come back. A time that is over says no more than none, so whoever has not asked for a window
// can be forgotten, and is: after two windows at the latest, and without looking through them.
type rates struct {
	each   time.Duration // what a request costs
	quota  int           // requests in a window
	policy string        // RateLimit-Policy
	clock  func() time.Time
	began  time.Time // times are counted from here by the monotonic clock: the wall clock may be set

	mu     sync.Mutex
	turned time.Time
	young  map[id.ID]int64 // shopper → ns since began; asked since the last turn
	old    map[id.ID]int64 // asked in the window before
}

// newRates returns rates of so many requests a second and shopper.
func newRates(perSecond int, clock func() time.Time) *rates {
	quota := perSecond * int(rateWindow/time.Second)
	return &rates{
		each: time.Second / time.Duration(perSecond), quota: quota, clock: clock, began: clock(), young: map[id.ID]int64{},
		policy: `"shopper";q=` + strconv.Itoa(quota) + `;w=` + strconv.Itoa(int(rateWindow/time.Second)),
	}
}

// spend takes a request off a shopper's quota. It returns whether there was one, how many are left, and
// in how many seconds all are back.
func (r *rates) spend(shopper id.ID) (ok bool, left, reset int) {
	at := r.clock()
	now := int64(at.Sub(r.began))
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.Sub(r.turned) >= rateWindow || len(r.young) >= maxRated {
		r.young, r.old, r.turned = map[id.ID]int64{}, r.young, at
	}
	whole, known := r.young[shopper]
	if !known {
		whole = r.old[shopper]
	}
	whole = max(whole, now)
	if spent := whole + int64(r.each); spent-now <= int64(rateWindow) {
		whole, ok = spent, true
	}
	r.young[shopper] = whole
	owed := time.Duration(whole - now)
	return ok, int((rateWindow - owed) / r.each), int((owed + time.Second - 1) / time.Second)
}
