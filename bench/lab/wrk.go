package lab

import (
	"errors"
	"flashsale/bench/testbed"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// wrkResult is what wrk says at its end.
type wrkResult struct {
	Requests      int64         // answered
	Rate          float64       // answered a second
	Bad           int64         // answers that are neither 2xx nor 3xx
	Errors        int64         // sockets that failed: connect, read, write
	Timeouts      int64         // answers that came after 2 s or more, or never
	P50, P95, P99 time.Duration // closed loop: only what the connections waited for
	GoodRate      float64       // 2xx a second
	GoodCount     int64
}

var (
	wrkTotal   = regexp.MustCompile(`(?m)^\s*(\d+) requests in `)
	wrkRate    = regexp.MustCompile(`(?m)^Requests/sec:\s+([\d.]+)`)
	wrkBad     = regexp.MustCompile(`(?m)Non-2xx or 3xx responses: (\d+)`)
	wrkSockets = regexp.MustCompile(`(?m)Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkLatency = regexp.MustCompile(`(?m)^\s+(50|95|99)%\s+([\d.]+(?:us|ms|s|m))\s*$`)
)

// parseWrk reads the text of wrk --latency.
func parseWrk(text string) (wrkResult, error) {
	var r wrkResult
	total, rate := wrkTotal.FindStringSubmatch(text), wrkRate.FindStringSubmatch(text)
	if total == nil || rate == nil {
		return r, fmt.Errorf("wrk gave no figures:\n%s", testbed.Tail(text))
	}
	var errs []error
	whole := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		errs = append(errs, err)
		return n
	}
	r.Requests = whole(total[1])
	var err error
	r.Rate, err = strconv.ParseFloat(rate[1], 64)
	errs = append(errs, err)
	if m := wrkBad.FindStringSubmatch(text); m != nil {
		r.Bad = whole(m[1])
	}
	if m := wrkSockets.FindStringSubmatch(text); m != nil {
		r.Errors, r.Timeouts = whole(m[1])+whole(m[2])+whole(m[3]), whole(m[4])
	}
	for _, m := range wrkLatency.FindAllStringSubmatch(text, -1) {
		d, err := time.ParseDuration(m[2])
		errs = append(errs, err)
		switch m[1] {
		case "50":
			r.P50 = d
		case "95": // wrk does not say it; reserve.lua does
			r.P95 = d
		default:
			r.P99 = d
		}
	}
	if r.Requests > 0 {
		r.GoodCount = r.Requests - r.Bad
		r.GoodRate = r.Rate * float64(r.GoodCount) / float64(r.Requests)
	}
	return r, errors.Join(errs...)
}
