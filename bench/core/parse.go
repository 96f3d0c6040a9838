package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// wrkResult is what wrk says at its end.
type wrkResult struct {
	Requests  int64         // answered
	Rate      float64       // answered a second
	Bad       int64         // answers that are neither 2xx nor 3xx
	Errors    int64         // sockets that failed: connect, read, write
	Timeouts  int64         // answers that came after 2 s or more, or never
	P50, P99  time.Duration // closed loop: only what the connections waited for
	GoodRate  float64       // 2xx a second
	GoodCount int64
}

var (
	wrkTotal   = regexp.MustCompile(`(?m)^\s*(\d+) requests in `)
	wrkRate    = regexp.MustCompile(`(?m)^Requests/sec:\s+([\d.]+)`)
	wrkBad     = regexp.MustCompile(`(?m)Non-2xx or 3xx responses: (\d+)`)
	wrkSockets = regexp.MustCompile(`(?m)Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkLatency = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([\d.]+(?:us|ms|s|m))\s*$`)
)

// parseWrk reads the text of wrk --latency.
func parseWrk(text string) (wrkResult, error) {
	var r wrkResult
	total, rate := wrkTotal.FindStringSubmatch(text), wrkRate.FindStringSubmatch(text)
	if total == nil || rate == nil {
		return r, fmt.Errorf("wrk gave no figures:\n%s", tail(text))
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
		if m[1] == "50" {
			r.P50 = d
		} else {
			r.P99 = d
		}
	}
	if r.Requests > 0 {
		r.GoodCount = r.Requests - r.Bad
		r.GoodRate = r.Rate * float64(r.GoodCount) / float64(r.Requests)
	}
	return r, errors.Join(errs...)
}

// parseRedisBenchmark reads the rate out of redis-benchmark --csv.
func parseRedisBenchmark(text string) (float64, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return 0, fmt.Errorf("redis-benchmark: %w\n%s", err, tail(text))
	}
	if len(rows) != 2 || len(rows[0]) < 2 || rows[0][1] != "rps" || len(rows[1]) < 2 {
		return 0, fmt.Errorf("redis-benchmark gave no figures:\n%s", tail(text))
	}
	return strconv.ParseFloat(rows[1][1], 64)
}

// pgbenchResult is what pgbench says at its end.
type pgbenchResult struct {
	Transactions, Failed int64
	Rate                 float64 // a second, without the time to connect
}

var (
	pgbenchCount  = regexp.MustCompile(`(?m)^number of transactions actually processed: (\d+)`)
	pgbenchFailed = regexp.MustCompile(`(?m)^number of failed transactions: (\d+)`)
	pgbenchRate   = regexp.MustCompile(`(?m)^tps = ([\d.]+) \(without initial connection time\)`)
)

// parsePgbench reads the text of pgbench.
func parsePgbench(text string) (pgbenchResult, error) {
	var r pgbenchResult
	count, rate := pgbenchCount.FindStringSubmatch(text), pgbenchRate.FindStringSubmatch(text)
	if count == nil || rate == nil {
		return r, fmt.Errorf("pgbench gave no figures:\n%s", tail(text))
	}
	var err, err2, err3 error
	r.Transactions, err = strconv.ParseInt(count[1], 10, 64)
	r.Rate, err2 = strconv.ParseFloat(rate[1], 64)
	if m := pgbenchFailed.FindStringSubmatch(text); m != nil {
		r.Failed, err3 = strconv.ParseInt(m[1], 10, 64)
	}
	return r, errors.Join(err, err2, err3)
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
