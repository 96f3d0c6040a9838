package lab

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// progress is the line that says what is being done: one that changes on a terminal, a line a step
// elsewhere.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	live  bool
	began time.Time
	width int
}

// NewProgress returns the progress on a file.
func NewProgress(f *os.File) *progress {
	p := &progress{out: f, began: time.Now()}
	if st, err := f.Stat(); err == nil {
		p.live = st.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// Step shows what begins now.
func (p *progress) Step(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf("%5.0fs  ", time.Since(p.began).Seconds()) + fmt.Sprintf(format, args...)
	if !p.live {
		fmt.Fprintln(p.out, text)
		return
	}
	n := len([]rune(text))
	fmt.Fprintf(p.out, "\r%s%*s", text, max(0, p.width-n), "")
	p.width = n
}

// Line leaves something that stays.
func (p *progress) Line(format string, args ...any) {
	p.Step(format, args...)
	p.End()
}

// End leaves the line.
func (p *progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live && p.width > 0 {
		fmt.Fprintln(p.out)
		p.width = 0
	}
}
