package ab

import (
	"bytes"
	"encoding/json"
	"flashsale/audit"
	"flashsale/bench/testbed"
	"flashsale/testenv"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func made(system string, users int, rate, p95 float64) Run {
	return Run{
		System: system, Users: users, Began: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC), Seconds: 10, Requests: 10 * rate, Journeys: rate,
		All: Latency{Count: 10 * rate, Average: p95 / 3, P90: p95 / 2, P95: p95, P99: 2 * p95}, Steps: map[string]Latency{"reserve": {Count: 5, P95: p95}},
		Use:   map[string]Use{"order": {Cores: 0.5, Memory: 64 << 20}, loadGenerator: {Cores: 0.7, Memory: 1 << 30}},
		Stock: Stock{Acknowledged: 100, Sold: 100}, Audit: []audit.Check{{Equation: 1, Name: "units", OK: true}},
	}
}

func sample() *Report {
	r := &Report{Version: format, Systems: []string{Sync, Async}, Commit: "0123456789abcdef", Machine: map[string]string{"cores": "2"}, Versions: []string{"k6 1"}}
	for i := range 3 {
		d := float64(i)
		r.Runs = append(r.Runs, made(Sync, 500, 2200+d, 600+d), made(Async, 500, 2600+d, 300-d), made(Sync, 250, 3000+50*d, 100+d), made(Async, 250, 3020+50*d, 400))
	}
	for _, users := range []int{250, 500} {
		r.Echo = append(r.Echo, Run{System: Sync, Users: users, Seconds: 10, Requests: 50_000}, Run{System: Async, Users: users, Seconds: 10, Requests: 54_000})
	}
	r.Sustained = []Sustained{sustained(Sync, []Step{{Rate: 100, P95: 5}, {Rate: 200, P95: 50}, {Rate: 400, P95: 150}, {Rate: 800, P95: 60}})}
	r.Storms = []Storm{{System: Sync, Rate: 50, Quiet: Latency{P95: 53}, Stormed: Latency{P95: 259}, Logins: 17, Busy: 3, HashCost: 48}}
	return r
}

// TestWinner: the better median wins, whichever way is better, and only when the runs do not overlap.
func TestWinner(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	for _, users := range []int{250, 500} {
		for _, row := range sample().rows(users) {
			got[fmt.Sprint(users, " ", row.figure.name)] = row.winner
		}
	}
	for what, want := range map[string]string{
		"500 throughput": Async, "500 P95": Async, "250 P95": Sync, "250 throughput": tie, "500 failed": tie, "500 CPU of k6": "", "500 CPU of order": tie,
	} {
		if w, ok := got[what]; !ok || w != want {
			t.Errorf("%s is won by %q, want %q", what, w, want)
		}
	}
	for what := range got {
		if strings.Contains(what, "time to decision") && got[what] != tie {
			t.Errorf("%s: nobody has it, and %q wins", what, got[what])
		}
	}
	if s := series([]float64{4, 1, 3, 2}); s.Median != 2.5 || s.Min != 1 || s.Max != 4 {
		t.Errorf("series is %+v", s)
	}
	// What k6 uses is told, and is not the system's.
	if use := sum(sample().Runs[0].Use); use.Cores != 0.5 || use.Memory != 64<<20 {
		t.Errorf("the system used %+v", use)
	}
}

// TestTargets: what was asked for is held against the figures, and one run with failures is enough to miss.
func TestTargets(t *testing.T) {
	t.Parallel()
	r := sample()
	r.Runs[0].Failed = 0.0001
	verdict := map[string]string{}
	for _, v := range r.targets() {
		verdict[v.system+" "+v.name] = v.verdict + " " + v.want
	}
	for name, want := range map[string]string{
		"sync throughput, 500 virtual users":                           "met ≥ 2,140 requests/s",
		"async throughput, 500 virtual users":                          "missed ≥ 2,740 requests/s",
		"sync throughput, 250 virtual users":                           "met ≥ 2,280 requests/s",
		"async throughput, 250 virtual users":                          "met ≥ 3,060 requests/s",
		"sync P95, 500 virtual users":                                  "met ≤ 690 ms",
		"async P95, 500 virtual users":                                 "missed ≤ 240 ms",
		"sync P95, 250 virtual users":                                  "met ≤ 160 ms",
		"async P95, 250 virtual users":                                 "missed ≤ 75.0 ms",
		"sync failures, 500 virtual users":                             "missed ≤ 0 %",
		"async failures, 500 virtual users":                            "met ≤ 0 %",
		"sync share of k6's rate against the echo, 500 virtual users":  "missed ≥ 0.50",
		"async share of k6's rate against the echo, 250 virtual users": "met ≥ 0.50",
		"sync sustained arrival rate with P95 of reserve under 100 ms": "stated stated",
	} {
		if verdict[name] != want {
			t.Errorf("%s: %q, want %q", name, verdict[name], want)
		}
	}
}

// TestSustained: the rates after the first that does not hold do not count, and a dropped arrival is not held.
func TestSustained(t *testing.T) {
	t.Parallel()
	if s := sample().Sustained[0]; s.Rate != 200 || s.P95 != 50 {
		t.Errorf("sustained %+v", s)
	}
	for what, step := range map[string]Step{"slow": {Rate: 1, P95: 100}, "dropped": {Rate: 1, P95: 5, Dropped: 1}, "failed": {Rate: 1, P95: 5, Failed: 0.001}, "nothing came": {Rate: 1}} {
		if s := sustained(Sync, []Step{step}); s.Rate != 0 {
			t.Errorf("%s: sustained %v", what, s.Rate)
		}
	}
}

// TestSound: everything that must not be is named.
func TestSound(t *testing.T) {
	t.Parallel()
	if wrong := sample().Sound(); len(wrong) > 0 {
		t.Fatalf("a sound report: %v", wrong)
	}
	for want, spoil := range map[string]func(*Report){
		"oversold 1":        func(r *Report) { r.Runs[2].Stock.Oversold = 1 },
		"stranded 2":        func(r *Report) { r.Runs[2].Stock.Stranded = 2 },
		"lost 3":            func(r *Report) { r.Runs[2].Stock.Lost = 3 },
		"requests failed":   func(r *Report) { r.Runs[2].Failed = 0.01 },
		"were unexpected":   func(r *Report) { r.Runs[2].Unexpected = 1 },
		"was not audited":   func(r *Report) { r.Runs[2].Audit = nil },
		"audit 1, units":    func(r *Report) { r.Runs[2].Audit[0].OK = false },
		"figures are missi": func(r *Report) { r.Interrupted = "Ctrl-C" },
	} {
		r := sample()
		spoil(r)
		if wrong := strings.Join(r.Sound(), "\n"); !strings.Contains(wrong, want) {
			t.Errorf("%s is not named: %q", want, wrong)
		}
	}
}

// TestBalance: where units are that are not where they should be.
func TestBalance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		put, stock, available, held, sold int64
		want                              Stock
	}{
		{100, 100, 60, 10, 30, Stock{Sold: 30, Held: 10}},
		{100, 100, 50, 10, 30, Stock{Sold: 30, Held: 10, Stranded: 10}},
		{100, 100, 0, 1, 100, Stock{Sold: 100, Held: 1, Oversold: 1}},
		{100, 100, 75, 0, 30, Stock{Sold: 30, Oversold: 5}}, // five could be sold twice
		{100, 120, 90, 0, 30, Stock{Sold: 30, Oversold: 20}},
	} {
		if got := balance(c.put, c.stock, c.available, c.held, c.sold); got != c.want {
			t.Errorf("%+v gave %+v", c, got)
		}
	}
}

// TestSettled: live stock that is a moment old is asked for again, and what never shows is told as it is.
func TestSettled(t *testing.T) {
	t.Parallel()
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		sold := 0
		if asked >= 3 {
			sold = 10
		}
		fmt.Fprintf(w, `{"items":[{"stock":100,"available":%d,"held":0,"sold":%d}]}`, 100-sold, sold)
	}))
	defer server.Close()
	s, g := newShop(server.URL, "", ""), goods{stock: 100}
	defer s.close()
	if got, err := s.settled(t.Context(), g, 10, time.Minute); err != nil || got != (Stock{Sold: 10}) || asked != 3 {
		t.Errorf("%+v after %d questions, %v", got, asked, err)
	}
	if got, err := s.settled(t.Context(), g, 11, 0); err != nil || got != (Stock{Sold: 10}) {
		t.Errorf("of eleven there are %+v, %v", got, err)
	}
}

// TestRoundTrip: the JSON is read back as it was, and what is no report is refused.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	r := sample()
	folder := t.TempDir()
	paths, err := r.WriteFiles(folder)
	if err != nil || len(paths) != 3 {
		t.Fatal(paths, err)
	}
	f, err := os.Open(filepath.Join(folder, "ab.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	got, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(r)
	b, _ := json.Marshal(got)
	if !bytes.Equal(a, b) {
		t.Error("the report that was read is another")
	}
	for _, bad := range []string{"", "{}", "[1]", `{"version":99,"systems":["a","b"]}`} {
		if _, err := Read(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	r.Short = true
	if paths, err = r.WriteFiles(folder); err != nil || !strings.HasSuffix(paths[0], "ab-short.md") {
		t.Errorf("a trial is written to %v, %v: it replaces figures of record", paths, err)
	}
}

// TestDocuments: both documents tell what the report has, the page needs nothing from anywhere, and a name in the
// report is no markup.
func TestDocuments(t *testing.T) {
	t.Parallel()
	r := sample()
	r.Runs[0].Stock.Lost = 7
	r.Notes = []string{"a <script> & a note"}
	var md, page bytes.Buffer
	if err := r.Markdown(&md); err != nil {
		t.Fatal(err)
	}
	if err := r.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2,201 (2,200–2,202)", "2,601 (2,600–2,602)", "≥ 2,140 requests/s", "| throughput, requests/s | 2,201 (2,200–2,202) | 2,601 (2,600–2,602) | async |"} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("the Markdown does not say %q", want)
		}
	}
	for _, want := range []string{"lost 7", "2,601 (2,600–2,602)", "<svg", `class="missed"`, "&lt;script&gt; &amp; a note"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, want := range []string{"The echo behind the same nginx", "A login storm", "argon2id", "P95 in the storm, ms", "arrivals/s"} {
		if !strings.Contains(page.String(), want) || !strings.Contains(md.String(), want) {
			t.Errorf("one of the documents does not say %q", want)
		}
	}
	for _, bad := range []string{"http://", "https://", "src=", "@import", "<script>", "NaN", "ZgotmplZ"} {
		if strings.Contains(page.String(), bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	if n := strings.Count(page.String(), "<rect"); n < 20 {
		t.Errorf("the plots have %d bars", n)
	}
}

// TestComparison: each wiring is held against itself.
func TestComparison(t *testing.T) {
	t.Parallel()
	before, after := sample(), sample()
	for i := range after.Runs {
		after.Runs[i].Requests *= 2
	}
	var out bytes.Buffer
	if err := Comparison(&out, before, after, "before", "after"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "| throughput, requests/s | 2,201 (2,200–2,202) | 4,402 (4,400–4,404) | +100.0 % | after |") {
		t.Errorf("twice the throughput reads\n%s", out.String())
	}
	for i := range after.Runs {
		after.Runs[i].Users = 7
	}
	if err := Comparison(io.Discard, before, after, "a", "b"); err == nil {
		t.Error("reports without a common load are compared")
	}
}

// recorded is what handleSummary of checkout.js wrote, shortened.
const recorded = `{"state":{"testRunDurationMs":32500},"early":12,"metrics":{
 "http_reqs":{"type":"counter","values":{"count":1400,"rate":43}},
 "http_req_failed":{"type":"rate","values":{"rate":0.01,"passes":14,"fails":1386},"thresholds":{"rate==0":{"ok":false}}},
 "http_req_duration":{"type":"trend","values":{"avg":10,"min":1,"med":8,"p(90)":20,"p(95)":30,"p(99)":40,"max":50,"count":1400}},
 "http_req_duration{name:login}":{"type":"trend","values":{"avg":60,"p(90)":70,"p(95)":80,"p(99)":90,"max":95,"count":250}},
 "http_req_duration{name:pay}":{"type":"trend","values":{"avg":0,"p(90)":0,"p(95)":0,"p(99)":0,"max":0,"count":0}},
 "acknowledged":{"type":"counter","values":{"count":190}},"confirmed":{"type":"counter","values":{"count":188}},
 "time_to_decision":{"type":"trend","values":{"avg":11,"p(90)":21,"p(95)":31,"p(99)":41,"max":51,"count":190}},
 "http_req_duration{scenario:rate_500,name:reserve}":{"type":"trend","values":{"p(95)":12}},
 "dropped_iterations{scenario:rate_500}":{"type":"counter","values":{"count":3}},
 "http_req_failed{scenario:rate_500}":{"type":"rate","values":{"rate":0.5}}}}`

func TestSummary(t *testing.T) {
	t.Parallel()
	s, err := parseSummary([]byte(recorded))
	if err != nil {
		t.Fatal(err)
	}
	r := s.run()
	if r.Seconds != 20.5 || r.Requests != 1150 || r.Failed != 0.01 || r.Journeys != 188 || r.Stock.Acknowledged != 190 || r.All.P95 != 30 || r.Decision.P99 != 41 {
		t.Errorf("%+v", r)
	}
	if _, ok := r.Steps["pay"]; ok || r.Steps["login"].P95 != 80 {
		t.Errorf("steps %+v", r.Steps)
	}
	if got := s.ladder([]float64{500}); len(got) != 1 || got[0] != (Step{Rate: 500, P95: 12, Dropped: 3, Failed: 0.5}) {
		t.Errorf("ladder %+v", got)
	}
	for _, bad := range []string{"", "{}", `{"state":{"testRunDurationMs":5},"metrics":{}}`, strings.Replace(recorded, "32500", "12000", 1)} {
		if _, err := parseSummary([]byte(bad)); err == nil {
			t.Errorf("%.60q was taken for a summary", bad)
		}
	}
}

func TestReadings(t *testing.T) {
	t.Parallel()
	const answer = "#datatype,string,long,dateTime:RFC3339,string,string,double,long\r\n#group,false,false,false,true,true,false,false\r\n#default,_result,,,,,,\r\n" +
		",result,table,_time,instance,service,cpu_seconds,memory_bytes\r\n,,0,2026-11-21T10:00:00Z,h:1,order,10,100\r\n,,0,2026-11-21T10:00:10.5Z,h:1,order,14.2,300\r\n,,0,2026-11-21T10:00:05Z,h:1,order,11,200\r\n\r\n" +
		",result,table,_time,instance,service,cpu_seconds,memory_bytes\r\n,,1,2026-11-21T10:00:00Z,h:2,order,1,1000\r\n,,1,2026-11-21T10:00:10Z,h:2,order,2,900\r\n\r\n"
	rs, err := parseReadings([]byte(answer))
	if err != nil || len(rs) != 5 {
		t.Fatal(rs, err)
	}
	u := uses(rs)["order"]
	if diff := u.Cores - (0.4 + 0.1); diff > 1e-9 || diff < -1e-9 || u.Memory != 1300 {
		t.Errorf("both instances used %+v", u)
	}
	at := time.Date(2026, 11, 21, 10, 0, 10, 0, time.UTC)
	if !covers(rs, at) || covers(rs, at.Add(time.Millisecond)) || covers(nil, at) {
		t.Error("it is not seen who has written what belongs to the time")
	}
	for _, bad := range []string{"error,reference\r\nfailed to parse query,897\r\n", ",result,table,_time,cpu_seconds,memory_bytes\r\n,,0,yesterday,1,1\r\n"} {
		if _, err := parseReadings([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// TestLog: what shoppers were told is read from the journey's log, whatever else is in it.
func TestLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	text := "token 0 abc\nreserved 0 r1\nconfirmed 0 r1\nlogin: 503 busy now, wait\ntoken 1 def\nreserved 1 r2\nreserved 0 r3\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readLog(path)
	if err != nil || got.count() != 3 || got.tokens["1"] != "def" || !slices.Equal(got.reserved["0"], []string{"r1", "r3"}) || !got.confirmed["r1"] || got.confirmed["r2"] {
		t.Errorf("%+v, %v", got, err)
	}
	if said := errored(path); said != "login: 503 busy now, wait" {
		t.Errorf("k6 has said %q", said)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	if err := Defaults().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	short := Defaults()
	short.Shorten()
	if err := short.Validate(); err != nil || !short.Short {
		t.Errorf("--short: %v", err)
	}
	for want, spoil := range map[string]func(*Settings){
		"--duration": func(s *Settings) { s.Duration = time.Millisecond },
		"--loads":    func(s *Settings) { s.Loads = []int{0} },
		"--repeats":  func(s *Settings) { s.Repeats = 0 },
		"--warmups":  func(s *Settings) { s.Warmups = -1 },
		"--logins":   func(s *Settings) { s.Logins = 0 },
		"--rates":    func(s *Settings) { s.Rates = []float64{200, 100} },
		"--rate-for": func(s *Settings) { s.RateFor = 1500 * time.Millisecond },
		"two":        func(s *Settings) { s.Against = []string{"http://a"} },
		"operator":   func(s *Settings) { s.Against = []string{"http://a", "http://b"} },
		"no address": func(s *Settings) { s.Against, s.Password = []string{"a:1", "http://b"}, "x" },
		"--in":       func(s *Settings) { s.In = "kubernetes" },
	} {
		s := Defaults()
		spoil(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestSeries: what is written is read from a real InfluxDB, of the wiring and the time that are asked for.
func TestSeries(t *testing.T) {
	t.Parallel()
	server := testenv.Influx(t)
	db := influx{url: server.URL, bucket: server.Bucket}
	at := time.Now().UTC().Truncate(time.Millisecond).Add(-time.Minute)
	ctx := t.Context()
	for i := range 3 {
		moment := at.Add(time.Duration(i) * 10 * time.Second)
		for _, wiring := range []string{Sync, Async} {
			if err := db.write(ctx, wiring, []reading{{"a b", "1", moment, float64(5 + i), 1000}, {"nginx", "1", moment, 3.5, float64(100 * i)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	rs, err := db.complete(ctx, Sync, at.Add(-time.Second), at.Add(21*time.Second))
	if err != nil || len(rs) != 6 {
		t.Fatalf("%d readings, %v: %+v", len(rs), err, rs)
	}
	if u := uses(rs); u["a b"] != (Use{Cores: 0.1, Memory: 1000}) || u["nginx"] != (Use{Memory: 200}) {
		t.Errorf("%+v", u)
	}
	if rs, err = db.read(ctx, Sync, at.Add(5*time.Second), at.Add(15*time.Second)); err != nil || len(rs) != 2 {
		t.Errorf("of the time between, %d readings, %v", len(rs), err)
	}
	if _, err := (influx{url: server.URL, bucket: "none/none"}).read(ctx, Sync, at, at.Add(time.Second)); err == nil {
		t.Error("a bucket that is not there is read")
	}
}

// TestWatch: this process is seen using a core.
func TestWatch(t *testing.T) {
	t.Parallel()
	p := &parts{}
	p.add("me", os.Getpid())
	before, err := p.look(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 200*time.Millisecond; { // busy
	}
	after, err := p.look(time.Now())
	if err != nil || len(after) != 1 || after[0].cpu <= before[0].cpu || after[0].memory < 1<<20 {
		t.Errorf("%+v, then %+v, %v", before, after, err)
	}
	read := p.memory[os.Getpid()].at
	p.memory[os.Getpid()] = weighed{read, 7}
	soon, err := p.look(read.Add(weighEvery / 2))
	later, err2 := p.look(read.Add(weighEvery))
	if err != nil || err2 != nil || soon[0].memory != 7 || later[0].memory < 1<<20 {
		t.Errorf("remembered: %+v, %v; read again: %+v, %v", soon, err, later, err2)
	}
	p.remove("me")
	if rs, err := p.look(time.Now()); err != nil || len(rs) != 0 {
		t.Errorf("gone, and read: %+v, %v", rs, err)
	}
}

// TestReportOfRecord: the report that the README links is a whole one of a sound run, and the README's table is its.
func TestReportOfRecord(t *testing.T) {
	t.Parallel()
	f, err := os.Open("../results/ab.json")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if wrong := r.Sound(); len(wrong) > 0 || r.Modified || r.Short {
		t.Errorf("modified %v, short %v, not sound: %q", r.Modified, r.Short, wrong)
	}
	var markdown bytes.Buffer
	if err := r.Markdown(&markdown); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{"../results/ab.md": {markdown.String()}, "../../README.md": inShort(r)} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(text), w) {
				t.Errorf("%s has not\n%s", path, w)
			}
		}
	}
}

// inShort is the README's table of a report: medians.
func inShort(r *Report) []string {
	out := []string{fmt.Sprintf("commit `%s`", r.Commit[:7])}
	for _, name := range []string{
		"throughput", "average", "P95", "failed", "reservations, accepted and durable", "time to decision, P95", "time from paid to confirmed, P95",
		"CPU per request", "memory, all services and servers",
	} {
		line := "|"
		for i, users := range []int{250, 500} {
			for _, w := range r.rows(users) {
				if w.figure.name != name {
					continue
				}
				if i == 0 {
					line += fmt.Sprintf(" %s, %s |", name, w.figure.unit)
				}
				line += fmt.Sprintf(" %s | %s |", testbed.Number(w.side[0].Median), testbed.Number(w.side[1].Median))
			}
		}
		out = append(out, line+"\n")
	}
	return out
}
