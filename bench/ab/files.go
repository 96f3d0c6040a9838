package ab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// WriteFiles writes the report into a folder as ab.md, ab.json and ab.html, and returns their paths. A trial's are
// called ab-short, so that they never replace figures of record.
func (r *Report) WriteFiles(folder string) ([]string, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("report: %w; name another folder with --out", err)
	}
	name := "ab"
	if r.Short {
		name = "ab-short"
	}
	var paths []string
	for _, f := range []struct {
		ext   string
		write func(io.Writer) error
	}{{".md", r.Markdown}, {".json", r.WriteJSON}, {".html", r.HTML}} {
		path := filepath.Join(folder, name+f.ext)
		out, err := os.Create(path)
		if err != nil {
			return paths, fmt.Errorf("report: %w; name another folder with --out", err)
		}
		if err := errors.Join(f.write(out), out.Close()); err != nil {
			return paths, fmt.Errorf("report %s: %w", path, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}
