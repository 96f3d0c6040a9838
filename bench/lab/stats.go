package lab

import (
	"math"
	"slices"
)

// Series are the runs of one measurement, in the order in which they were taken.
type Series struct {
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Runs   []float64 `json:"runs"`
}

// NewSeries returns the series of runs.
func NewSeries(runs []float64) Series {
	if len(runs) == 0 {
		return Series{}
	}
	return Series{Median: Median(runs), Min: slices.Min(runs), Max: slices.Max(runs), Runs: runs}
}

// Median returns the middle value, NaN of none.
func Median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	switch {
	case n == 0:
		return math.NaN()
	case n%2 == 1:
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// Percentile returns the nearest-rank percentile p (0 to 1) of sorted values.
func Percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	rank := int(math.Ceil(p * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// ratios holds each run against the mean of the baselines taken just before and just after it.
func ratios(measured, baselines []float64) []float64 {
	out := make([]float64, 0, len(measured))
	for i, m := range measured {
		if i+1 >= len(baselines) {
			break
		}
		out = append(out, m/((baselines[i]+baselines[i+1])/2))
	}
	return out
}
