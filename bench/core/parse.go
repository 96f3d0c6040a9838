package main

import (
	"encoding/csv"
	"errors"
	"flashsale/bench/testbed"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// parseRedisBenchmark reads the rate out of redis-benchmark --csv.
func parseRedisBenchmark(text string) (float64, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return 0, fmt.Errorf("redis-benchmark: %w\n%s", err, testbed.Tail(text))
	}
	if len(rows) != 2 || len(rows[0]) < 2 || rows[0][1] != "rps" || len(rows[1]) < 2 {
		return 0, fmt.Errorf("redis-benchmark gave no figures:\n%s", testbed.Tail(text))
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
		return r, fmt.Errorf("pgbench gave no figures:\n%s", testbed.Tail(text))
	}
	var err, err2, err3 error
	r.Transactions, err = strconv.ParseInt(count[1], 10, 64)
	r.Rate, err2 = strconv.ParseFloat(rate[1], 64)
	if m := pgbenchFailed.FindStringSubmatch(text); m != nil {
		r.Failed, err3 = strconv.ParseInt(m[1], 10, 64)
	}
	return r, errors.Join(err, err2, err3)
}
