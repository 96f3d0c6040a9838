package testbed

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Progress is the line that says what is being done: one that changes on a terminal, a line a step
// elsewhere.
type Progress struct {
	mu    sync.Mutex
	out   io.Writer
	live  bool
	Began time.Time
	width int
}

// NewProgress writes to a terminal or a file.
func NewProgress(f *os.File) *Progress {
	p := &Progress{out: f, Began: time.Now()}
	if st, err := f.Stat(); err == nil {
		p.live = st.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// Step shows what begins now.
func (p *Progress) Step(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf("%5.0fs  ", time.Since(p.Began).Seconds()) + fmt.Sprintf(format, args...)
	if !p.live {
		fmt.Fprintln(p.out, text)
		return
	}
	n := len([]rune(text))
	fmt.Fprintf(p.out, "\r%s%*s", text, max(0, p.width-n), "")
	p.width = n
}

// Line leaves something that stays.
func (p *Progress) Line(format string, args ...any) {
	p.Step(format, args...)
	p.End()
}

// End leaves the line.
func (p *Progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live && p.width > 0 {
		fmt.Fprintln(p.out)
		p.width = 0
	}
}

// Pace is how often something that goes on should be told: often on a terminal, rarely in a log.
func (p *Progress) Pace() time.Duration {
	if p.live {
		return 500 * time.Millisecond
	}
	return 20 * time.Second
}
