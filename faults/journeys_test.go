//go:build faults

package faults

import (
	"flashsale/bench/journey"
	"fmt"
	"time"
)

// journeys opens a sale at an address and has shoppers go through whole journeys, from the registration on, two dozen at a
// time: they come as fast as they are served, and are there for as long as several faults take.
func (s *system) journeys(base string, stock int64, shoppers int) (*journey.Run, journey.Crowd, journey.Sale, <-chan journey.Result) {
	s.t.Helper()
	c := journey.Crowd{
		Base: base, Operator: operator, Password: password, Shoppers: shoppers, Stock: stock, Units: 1, Hold: 4 * time.Second,
		AbandonRate: 0.1, Concurrency: 24, Seed: 11, Decide: 2 * time.Minute, GiveUpOnHeld: time.Minute, Reconnect: 90 * time.Second, Client: s.client,
	}
	sale, err := journey.OpenSale(s.t.Context(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	run := journey.New(c, sale)
	done := make(chan journey.Result, 1)
	go func() { done <- run.Do(s.t.Context()) }()
	return run, c, sale, done
}

// after waits until so many journeys are over.
func (s *system) after(run *journey.Run, shoppers int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d journeys are over", shoppers), 4*time.Minute, func() bool { return run.Progress().Done >= shoppers })
}

// bought waits for the journeys, has the rest sold, and holds what everybody was told against the books:
// nothing acknowledged is lost or undecided, everything is sold, and the audit is clean.
func (s *system) bought(run *journey.Run, c journey.Crowd, sale journey.Sale, done <-chan journey.Result) {
	s.t.Helper()
	res := <-done
	sold := res.SoldUnits
	for round := uint64(0); sold < int(c.Stock) && round < 8; round++ {
		rest := c
		rest.Shoppers, rest.AbandonRate, rest.Seed = int(c.Stock)-sold, 0, 100+round
		sold += journey.New(rest, sale).Do(s.t.Context()).SoldUnits
	}
	lost, err := run.Verify(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	got := fmt.Sprintf("sold %d lost %d undecided %d unexpected %d", sold, lost, res.Undecided, res.Unexpected)
	if want := fmt.Sprintf("sold %d lost 0 undecided 0 unexpected 0", c.Stock); got != want {
		s.t.Errorf("%s, want %s\n%v", got, want, res.Errors)
	}
	s.t.Logf("acknowledged %d, waited for held units %d times", res.Acknowledged, res.Waits)
}
