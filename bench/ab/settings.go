package ab

import (
	"fmt"
	"net/url"
	"slices"
	"time"
)

// Settings say what is measured, and how long.
type Settings struct {
	Duration time.Duration // of one measured run
	Loads    []int         // virtual users
	Repeats  int           // measured runs at each load
	Warmups  int           // runs before them, at the lowest load
	Rates    []float64     // arrival rates of the ladder, ascending; none for no ladder
	RateFor  time.Duration // of one rate
	Storm    bool          // measure what a login storm does
	Short    bool          // a trial: the figures are not of record
	Logins   int           // shoppers that come, and log in, in a second

	In       string   // Auto, Containers or Processes
	Against  []string // two addresses of systems that run already; then nothing is started
	Operator string   // e-mail address, for Against
	Password string   // the operator's, for Against

	K6      string // program, instead of building it
	Influxd string // program, instead of building it
	Install bool   // install missing servers (root on Debian)
	Dir     string // where the temporary folder is made
	Out     string // folder of the report
}

// Where the two sides run.
const (
	Auto       = "auto"       // in containers where Docker answers, otherwise as processes
	Containers = "containers" // of the two compose files
	Processes  = "processes"  // of this machine, in the same topology
)

// Defaults are the settings of the run of record.
func Defaults() Settings {
	return Settings{
		Duration: 45 * time.Second, Loads: []int{250, 500}, Repeats: 3, Warmups: 2, Rates: []float64{250, 500, 750, 1000, 1250, 1500, 2000, 2500, 3000, 4000},
		RateFor: 6 * time.Second, Storm: true, Logins: 25, In: Auto, Operator: operator, Install: true, Out: "bench/results",
	}
}

// Shorten makes a trial of it: enough to see that everything works, too short for figures.
func (s *Settings) Shorten() {
	s.Short, s.Duration, s.Loads, s.Repeats, s.Warmups, s.RateFor = true, 8*time.Second, []int{20, 40}, 2, 1, 2*time.Second
	s.Rates = []float64{50, 100, 200}
}

// Validate returns what cannot be, and what to set instead.
func (s Settings) Validate() error {
	switch {
	case s.Duration < 2*time.Second || s.Duration > time.Hour:
		return fmt.Errorf("--duration is %s; use 2s to 1h", s.Duration)
	case len(s.Loads) == 0 || len(s.Loads) > 8 || slices.Min(s.Loads) < 1 || slices.Max(s.Loads) > 2000:
		return fmt.Errorf("--loads is %v; name 1 to 8 numbers of virtual users, 1 to 2000 each, such as 250,500", s.Loads)
	case s.Repeats < 1 || s.Repeats > 20:
		return fmt.Errorf("--repeats is %d; use 1 to 20", s.Repeats)
	case s.Warmups < 0 || s.Warmups > 10:
		return fmt.Errorf("--warmups is %d; use 0 to 10", s.Warmups)
	case s.Logins < 1 || s.Logins > 1000:
		return fmt.Errorf("--logins is %d; use 1 to 1000 a second", s.Logins)
	case s.RateFor < time.Second || s.RateFor > time.Minute || s.RateFor%time.Second != 0:
		return fmt.Errorf("--rate-for is %s; use whole seconds, 1s to 60s", s.RateFor)
	case !slices.Contains([]string{Auto, Containers, Processes}, s.In):
		return fmt.Errorf("--in is %q; use %s, %s or %s", s.In, Auto, Containers, Processes)
	case len(s.Against) != 0 && len(s.Against) != 2:
		return fmt.Errorf("--against has %d addresses; name two, such as --against http://127.0.0.1:8080 http://127.0.0.1:8081", len(s.Against))
	case len(s.Against) == 2 && s.Password == "":
		return fmt.Errorf("--against needs an operator of both systems, who opens the sales: set OPERATOR_PASSWORD, and --operator-email if it is not %s", operator)
	}
	for i, r := range s.Rates {
		if r < 1 || r > 100_000 || i > 0 && r <= s.Rates[i-1] {
			return fmt.Errorf("--rates is %v; name arrivals a second, ascending, 1 to 100000 each", s.Rates)
		}
	}
	for _, a := range s.Against {
		if u, err := url.Parse(a); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("--against: %q is no address; write http://host:port", a)
		}
	}
	return nil
}
