package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// openLoop sends requests at a fixed rate, whether or not the answers come. A request's time runs
// from the moment at which it was due: one that had to wait for a free connection has waited.
type openLoop struct {
	addrs []string // the connections are spread over them
	rate  float64
	count int
	want  int // the status of a good answer
	// request appends the bytes of request n.
	request func(buf []byte, n int) []byte
}

// OpenResult is what the generator saw.
type OpenResult struct {
	Good, Bad int64
	Took      time.Duration
	Latencies []float64 // of good answers, ms, sorted
	Late      []float64 // how late the generator itself was to send, ms, sorted
}

const openConnections = 256

// conn is one connection: a request is written by the sender, its answer read by its own reader.
type conn struct {
	net.Conn
	due chan time.Time
}

func (o openLoop) run(ctx context.Context) (OpenResult, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(float64(o.count)/o.rate*float64(time.Second))+20*time.Second)
	defer cancel()
	var res OpenResult
	free := make(chan *conn, openConnections)
	all := make([]*conn, 0, openConnections)
	lat := make([][]float64, openConnections)
	var good, bad atomic.Int64
	var readers sync.WaitGroup
	defer func() {
		for _, c := range all {
			_ = c.Close()
		}
	}()
	for i := range openConnections {
		nc, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", o.addrs[i%len(o.addrs)])
		if err != nil {
			return res, err
		}
		c := &conn{Conn: nc, due: make(chan time.Time, 1)}
		all = append(all, c)
		free <- c
		readers.Go(func() {
			r := bufio.NewReaderSize(nc, 4096)
			for due := range c.due {
				status, err := readAnswer(r)
				if err != nil {
					bad.Add(1)
					continue // the connection is not used again
				}
				if status == o.want {
					good.Add(1)
					lat[i] = append(lat[i], ms(time.Since(due)))
				} else {
					bad.Add(1)
				}
				free <- c
			}
		})
	}
	late, began, err := o.send(ctx, free)
	res.Took = time.Since(began)
	if err == nil { // what is under way may still come
		err = waitFor(ctx, func() bool { return good.Load()+bad.Load() >= int64(o.count) })
	}
	for _, c := range all {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		close(c.due)
	}
	readers.Wait()
	for _, l := range lat {
		res.Latencies = append(res.Latencies, l...)
	}
	slices.Sort(res.Latencies)
	slices.Sort(late)
	res.Good, res.Bad, res.Late = good.Load(), bad.Load(), late
	return res, err
}

// send keeps the schedule on a thread of its own: Go's timers are a millisecond coarse when the
// process is idle, which would be a share of the baseline.
func (o openLoop) send(ctx context.Context, free chan *conn) (late []float64, began time.Time, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	gap := float64(time.Second) / o.rate
	buf := make([]byte, 0, 2048)
	late = make([]float64, 0, o.count)
	began = time.Now()
	for n := range o.count {
		due := began.Add(time.Duration(float64(n) * gap))
		if wait := time.Until(due); wait > 0 {
			if ctx.Err() != nil {
				return late, began, ctx.Err()
			}
			ts := syscall.NsecToTimespec(int64(wait))
			_ = syscall.Nanosleep(&ts, nil) // cut short by a signal, it sends a little early
		}
		late = append(late, max(0, ms(time.Since(due))))
		var c *conn
		select {
		case c = <-free:
		default:
			select {
			case c = <-free:
			case <-ctx.Done():
				return late, began, fmt.Errorf("after %d of %d requests at %.0f/s no connection was free any more: %w", n, o.count, o.rate, ctx.Err())
			}
		}
		buf = o.request(buf[:0], n)
		if _, err := c.Write(buf); err != nil {
			return late, began, err
		}
		c.due <- due
	}
	return late, began, nil
}

func waitFor(ctx context.Context, done func() bool) error {
	for deadline := time.Now().Add(5 * time.Second); !done(); {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return errors.New("answers are missing five seconds after the last request")
		}
		time.Sleep(5 * time.Millisecond) // the load has been sent: nothing is measured here
	}
	return nil
}

// readAnswer reads one HTTP/1.1 answer with a Content-Length and returns its status.
func readAnswer(r *bufio.Reader) (int, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, fmt.Errorf("not an answer: %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, err
	}
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
	}
	_, err = r.Discard(length)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return status, err
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Open loads addresses at a rate for a time, with the tokens that wrk uses. want is the status of a
// good answer.
func (l *Lab) Open(ctx context.Context, w *World, ports []int, bodies []string, want int, rate float64, d time.Duration) (OpenResult, usage, error) {
	var tokens [][]byte
	for n := range wrkThreads {
		b, err := os.ReadFile(filepath.Join(l.Dir, "tokens."+strconv.Itoa(n)))
		if err != nil {
			return OpenResult{}, nil, err
		}
		tokens = append(tokens, bytes.Fields(b)...)
	}
	l.rounds++
	head := fmt.Sprintf("POST /api/v1/reservations HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nContent-Length: %d\r\nAuthorization: Bearer ", len(bodies[0]))
	middle := fmt.Sprintf("\r\nIdempotency-Key: o%d-", l.rounds)
	o := openLoop{rate: rate, want: want, count: max(1, int(rate*d.Seconds())), request: func(b []byte, n int) []byte {
		b = append(append(append(b, head...), tokens[n%len(tokens)]...), middle...)
		b = append(strconv.AppendInt(b, int64(n), 10), "\r\n\r\n"...)
		return append(b, bodies[n%len(bodies)]...)
	}}
	for _, p := range ports {
		o.addrs = append(o.addrs, net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
	}
	parts := l.Parts(w)
	before, err := Read(parts)
	if err != nil {
		return OpenResult{}, nil, err
	}
	r, err := o.run(ctx)
	if err != nil {
		return r, nil, err
	}
	after, err := Read(parts)
	if err != nil {
		return r, nil, err
	}
	return r, after.Since(before), nil
}

// OpenReservations is open for the service, with the books balanced after.
func (l *Lab) OpenReservations(ctx context.Context, w *World, ports []int, g Goods, rate float64, d time.Duration) (OpenResult, Measured, error) {
	w.Used = true
	before, err := w.Settled(ctx, g)
	if err != nil {
		return OpenResult{}, Measured{}, err
	}
	r, used, err := l.Open(ctx, w, ports, g.Bodies(), http.StatusCreated, rate, d)
	if err != nil {
		return r, Measured{}, err
	}
	m := Measured{Good: r.Good, Refused: r.Bad, Used: used, Took: r.Took, Rate: float64(r.Good) / r.Took.Seconds()}
	after, err := w.Settled(ctx, g)
	m.Stock = StockOf(r.Good, before, after)
	return r, m, err
}
