package lab

import (
	"bufio"
	"flag"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParseWrk(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]wrkResult{
		"wrk.txt": {
			Requests: 56412, Rate: 14032.84, Bad: 412, Errors: 3, Timeouts: 7, P50: 13370 * time.Microsecond, P99: 41460 * time.Microsecond,
			GoodRate: 14032.84 * 56000 / 56412, GoodCount: 56000,
		},
		"wrk-plain.txt": {
			Requests: 27312, Rate: 27046.11, P50: 950 * time.Microsecond, P99: 1020 * time.Millisecond, GoodRate: 27046.11, GoodCount: 27312,
		},
	} {
		got, err := parseWrk(readFile(t, name))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
	for _, text := range []string{"", "unable to connect to 127.0.0.1:1 Connection refused", "12 requests in 1s"} {
		if got, err := parseWrk(text); err == nil {
			t.Errorf("%q gave %+v", text, got)
		}
	}
}

func TestStatistics(t *testing.T) {
	t.Parallel()
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for p, want := range map[float64]float64{0: 1, 0.5: 50, 0.99: 99, 0.991: 100, 1: 100} {
		if got := Percentile(hundred, p); got != want {
			t.Errorf("percentile %v is %v, want %v", p, got, want)
		}
	}
	if got := Percentile([]float64{7}, 0.99); got != 7 {
		t.Errorf("of one value: %v", got)
	}
	if !math.IsNaN(Percentile(nil, 0.5)) || !math.IsNaN(Median(nil)) {
		t.Error("of nothing there is no figure")
	}
	if got := Median([]float64{3, 1, 2}); got != 2 {
		t.Errorf("median %v", got)
	}
	if got := Median([]float64{4, 1, 2, 3}); got != 2.5 {
		t.Errorf("median of four %v", got)
	}
	if got := ratios([]float64{60, 30}, []float64{100, 140, 60}); !reflect.DeepEqual(got, []float64{0.5, 0.3}) {
		t.Errorf("ratios %v", got)
	}
	got := NewSeries([]float64{3, 9, 6})
	if want := (Series{Median: 6, Min: 3, Max: 9, Runs: []float64{3, 9, 6}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestStockOf(t *testing.T) {
	t.Parallel()
	start := Balance{Granted: 100, Held: 10, Available: 90}
	for name, c := range map[string]struct {
		acknowledged int64
		after        Balance
		want         Stock
	}{
		"all in order":                {50, Balance{Granted: 100, Held: 60, Available: 40}, Stock{Acknowledged: 50, Reserved: 50}},
		"under way at the end":        {50, Balance{Granted: 100, Held: 62, Available: 38}, Stock{Acknowledged: 50, Reserved: 52}},
		"an acknowledged one is lost": {50, Balance{Granted: 100, Held: 59, Available: 41}, Stock{Acknowledged: 50, Reserved: 49, Lost: 1}},
		"more than there were":        {95, Balance{Granted: 100, Held: 105, Available: 0}, Stock{Acknowledged: 95, Reserved: 95, Oversold: 5}},
		"the gate has too many":       {50, Balance{Granted: 100, Held: 60, Available: 43}, Stock{Acknowledged: 50, Reserved: 50, Oversold: 3}},
		"the gate has too few":        {50, Balance{Granted: 100, Held: 60, Available: 33, Pending: 7}, Stock{Acknowledged: 50, Reserved: 50, Stranded: 7}},
	} {
		if got := StockOf(c.acknowledged, start, c.after); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	ratio := func(v float64) *Series { s := NewSeries([]float64{v}); return &s }
	for _, c := range []struct {
		f    Figure
		want string
	}{
		{Figure{Ratio: ratio(0.6)}.NoLessThan(0.6), met},
		{Figure{Ratio: ratio(0.59)}.NoLessThan(0.6), missed},
		{Figure{Ratio: ratio(1.15)}.NoMoreThan(1.15), met},
		{Figure{Ratio: ratio(1.16)}.NoMoreThan(1.15), missed},
		{Figure{Ratio: ratio(0.2)}.NoMoreThan(1.15), met},
		{Figure{}, stated},
		{Figure{Error: "no server"}.NoLessThan(0.6), notMeasured},
	} {
		c.f.Judge()
		if c.f.Verdict != c.want {
			t.Errorf("%+v is %s, want %s", c.f, c.f.Verdict, c.want)
		}
	}
	sound := Report{Figures: []Figure{{Stock: &Stock{Reserved: 5}}}, Audits: []Audited{{Clean: true}}}
	if !sound.sound() {
		t.Error("a clean run is sound")
	}
	for name, r := range map[string]Report{
		"oversold":     {Figures: []Figure{{Stock: &Stock{Oversold: 1}}}},
		"stranded":     {Figures: []Figure{{Stock: &Stock{Stranded: 1}}}},
		"lost":         {Figures: []Figure{{Stock: &Stock{Lost: 1}}}},
		"not measured": {Figures: []Figure{{Error: "x"}}},
		"audit":        {Audits: []Audited{{}}},
	} {
		if r.sound() {
			t.Errorf("%s: sound", name)
		}
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	base, value, ratio := NewSeries([]float64{20000, 21000}), NewSeries([]float64{9000, 12000, 10000}), NewSeries([]float64{0.45, 0.6, 0.5})
	r := Report{
		Commit: "abc", Modified: true, Machine: map[string]string{"cores": "2", "memory": "8.0 GB"}, Versions: []string{"one 1", "two 2"}, Settings: []string{"short"},
		Figures: []Figure{
			Figure{
				Name: "reservations over HTTP", Unit: "durable reservations/s", Value: value, Baseline: &base, Ratio: &ratio, Against: "the echo",
				Stock: &Stock{Reserved: 31000}, CPU: map[string]float64{"service": 51.2, "PostgreSQL": 0.042, Machine: 180}, Outside: 0.5, Notes: []string{"a note"},
			}.NoLessThan(0.6),
			{Name: "memory", Unit: "bytes", Value: NewSeries([]float64{231.4})},
			{Name: "takes", Error: "no server"},
		},
		Audits: []Audited{{Name: "shop", Clean: true}, {Name: "other", Error: "it ended"}}, Seconds: 61,
	}
	for i := range r.Figures {
		r.Figures[i].Judge()
	}
	var b strings.Builder
	r.print(&b)
	golden := filepath.Join("testdata", "report.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := readFile(t, "report.txt"); b.String() != want {
		t.Errorf("the report is\n%s\nwant\n%s", b.String(), want)
	}
}

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	r := bufio.NewReader(strings.NewReader("HTTP/1.1 201 Created\r\ncontent-length: 5\r\nX: y\r\n\r\nhelloHTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"))
	for _, want := range []int{201, 503} {
		if got, err := readAnswer(r); err != nil || got != want {
			t.Errorf("%d, %v; want %d", got, err, want)
		}
	}
	for _, text := range []string{"", "nonsense\r\n\r\n", "HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhe", "HTTP/1.1 201 Created\r\nContent-Length: x\r\n\r\n"} {
		if got, err := readAnswer(bufio.NewReader(strings.NewReader(text))); err == nil {
			t.Errorf("%q gave %d", text, got)
		}
	}
}

// TestOpenLoopCountsWaiting: a server that stops for a while delays everybody who was due meanwhile,
// and their times say so. A generator that waits for answers would have shown one slow request.
func TestOpenLoopCountsWaiting(t *testing.T) {
	t.Parallel()
	const rate, count, stall = 2000, 2000, 250 * time.Millisecond
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	open := make(chan struct{})
	var stalled time.Time
	begin := sync.OnceFunc(func() { // the time to connect is nobody's stall
		stalled = time.Now().Add(200 * time.Millisecond)
		time.AfterFunc(200*time.Millisecond+stall, func() { close(open) })
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				r := bufio.NewReader(c)
				for {
					if _, err := r.ReadSlice('\n'); err != nil {
						return
					}
					begin()
					if time.Now().After(stalled) {
						<-open
					}
					if _, err := io.WriteString(c, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"); err != nil {
						return
					}
				}
			}()
		}
	}()
	res, err := openLoop{want: 201, addrs: []string{l.Addr().String()}, rate: rate, count: count, request: func(b []byte, n int) []byte {
		return append(strconv.AppendInt(b, int64(n), 10), '\n')
	}}.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if res.Good != count || res.Bad != 0 || len(res.Latencies) != count {
		t.Fatalf("%d good, %d bad, %d times", res.Good, res.Bad, len(res.Latencies))
	}
	slow := 0
	for _, v := range res.Latencies {
		if v > ms(stall)/10 {
			slow++
		}
	}
	// About rate × stall × 0.9 requests were due in time to wait more than a tenth of it.
	if want := int(rate * stall.Seconds() * 0.9); slow < want*3/4 {
		t.Errorf("%d of %d requests waited, want about %d", slow, count, want)
	}
}
