package testbed

import (
	"os"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const text = "4242 (a (strange) name) S 17 4242 4242 0 -1 4194560 100 0 0 0 250 50 30 20 20 0 8 0 12345 1000000 200 18446744073709551615"
	got, err := parseStat(text)
	if want := (procStat{parent: 17, own: 3 * time.Second, reaped: 500 * time.Millisecond}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "1 (x) S 1", "1 (x) S a b c d e f g h i j k l m n o"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q gave %+v", bad, got)
		}
	}
	busy, err := parseBusy("cpu  100 1 50 9000 700 2 3 4 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
	if err != nil || busy != 1600*time.Millisecond {
		t.Errorf("busy %v, %v", busy, err)
	}
	if _, err := parseBusy("intr 1 2 3"); err == nil {
		t.Error("a line of another kind was read")
	}
	if kb, err := kilobytes("Name:\tx\nRssAnon:\t    1024 kB\n", "RssAnon:"); err != nil || kb != 1<<20 {
		t.Errorf("%d, %v", kb, err)
	}
}

// TestCPUOf: a child's time counts while it runs and after it has ended.
func TestCPUOf(t *testing.T) {
	t.Parallel()
	before, err := CPUOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Output(t.Context(), BaseEnv(), nil, "sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"); err != nil {
		t.Fatal(err)
	}
	after, err := CPUOf(os.Getpid())
	if err != nil || after-before < 20*time.Millisecond {
		t.Errorf("a busy child took %s, %v", after-before, err)
	}
	if _, err := CPUOf(1 << 30); err == nil {
		t.Error("a process that is not there has no time")
	}
}

// TestPorts: no port is given twice, not even before somebody listens on it.
func TestPorts(t *testing.T) {
	t.Parallel()
	var p Ports
	defer p.Release()
	seen := map[int]bool{}
	for range 300 {
		port, err := p.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || port < 15_000 || port > 32_000 {
			t.Fatalf("port %d, after %d others", port, len(seen))
		}
		seen[port] = true
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{
		0: "0", 0.0042: "0.0042", 0.44: "0.44", 1.15: "1.15", 12.34: "12.3", 123.4: "123", 1234.5: "1,235", 1234567: "1,234,567",
	} {
		if got := Number(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
}
