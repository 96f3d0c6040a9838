package lab

import (
	"context"
	"fmt"
)

// Interleave takes baseline, measured, baseline, …, baseline: so many measured rounds, one more baseline.
func (l *Lab) Interleave(ctx context.Context, repeats int, what string, baseline, measure func(context.Context) (Measured, error)) (bases, ms []Measured, err error) {
	for i := range 2*repeats + 1 {
		if err := l.Checkpoint(ctx); err != nil {
			return nil, nil, err
		}
		f, into, side := baseline, &bases, "baseline"
		if i%2 == 1 {
			f, into, side = measure, &ms, "measured"
		}
		l.Say.Step("%s: %s %d of %d", what, side, len(*into)+1, repeats+1-i%2)
		m, err := f(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", side, err)
		}
		*into = append(*into, m)
	}
	return bases, ms, nil
}

// Pick applies f to every round.
func Pick(ms []Measured, f func(Measured) float64) []float64 {
	out := make([]float64, len(ms))
	for i, m := range ms {
		out[i] = f(m)
	}
	return out
}

// Rate is the good answers of a round, a second.
func Rate(m Measured) float64 { return m.Rate }

// Compare makes a figure of interleaved rounds.
func Compare(name, unit, against string, bases, ms []Measured, f func(Measured) float64) Figure {
	base, value := NewSeries(Pick(bases, f)), NewSeries(Pick(ms, f))
	ratio := NewSeries(ratios(value.Runs, base.Runs))
	fig := Figure{Name: name, Unit: unit, Against: against, Value: value, Baseline: &base, Ratio: &ratio, Stock: &Stock{}, CPU: map[string]float64{}}
	var refused, failed int64
	for _, m := range ms {
		fig.Stock.Add(m.Stock)
		refused += m.Refused
		failed += m.Failed
	}
	for _, m := range append(append([]Measured{}, bases...), ms...) {
		fig.Outside = max(fig.Outside, m.outside())
	}
	for _, part := range []string{"service", "PostgreSQL", "Redis", "RabbitMQ", "nginx", "wrk", Machine} {
		fig.CPU[part] = Median(Pick(ms, func(m Measured) float64 { return m.Cost(part) }))
	}
	if refused+failed > 0 {
		fig.Notes = append(fig.Notes, fmt.Sprintf("%d requests were refused and %d failed: they are in no rate", refused, failed))
	}
	return fig
}

// NoLessThan sets the target: the ratio is at least this.
func (f Figure) NoLessThan(target float64) Figure { f.Target = target; return f }

// NoMoreThan sets the target: the ratio is at most this.
func (f Figure) NoMoreThan(target float64) Figure { f.Target, f.AtMost = target, true; return f }

// Part is what a good answer costs one part, CPU µs.
func Part(name string) func(Measured) float64 {
	return func(m Measured) float64 { return m.Cost(name) }
}
