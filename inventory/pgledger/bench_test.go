package pgledger_test

import (
	"flashsale/inventory"
	"flashsale/inventory/pgledger"
	"flashsale/testenv/databases"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// backends returns the CPU time of the server's processes: of the postmaster's living children.
func backends(postmaster string) (sum time.Duration) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if !strings.Contains(string(b), "(postgres)") {
			continue
		}
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if fields[1] != postmaster {
			continue
		}
		for _, at := range []int{11, 12} {
			n, _ := strconv.Atoi(fields[at])
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}

func own() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkCommit commits groups of fresh claims over two buckets: CPU µs a claim, of PostgreSQL
// and of this process.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{16, 64, 256} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			pool := databases.Postgres(b, pgledger.Migrations)
			l := pgledger.New(pool)
			l.LimitUnpaid(10) // as it is unless it is set
			item := provision(b, l, 10_000_000)
			group := make([]inventory.Claim, size)
			b.ResetTimer()
			var pid int
			if err := pool.QueryRow(b.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
				b.Fatal(err)
			}
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			postmaster := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[1]
			pg, me := backends(postmaster), own()
			n := 0
			for b.Loop() {
				for i := range group {
					n++
					group[i] = claim(item, n)
				}
				out, err := l.Commit(b.Context(), group)
				if err != nil || out[0].Err != nil {
					b.Fatal(err, out)
				}
			}
			b.ReportMetric(float64((backends(postmaster)-pg).Microseconds())/float64(n), "pg-µs/claim")
			b.ReportMetric(float64((own()-me).Microseconds())/float64(n), "own-µs/claim")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "µs/claim")
		})
	}
}
