package console

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

// asset is an embedded file with the address that changes when it does.
type asset struct {
	body        []byte
	contentType string
	version     string
	url         string
}

func loadAssets(from fs.FS) (map[string]asset, error) {
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	entries, err := fs.ReadDir(from, "static")
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	all := map[string]asset{}
	for _, e := range entries {
		b, err := fs.ReadFile(from, "static/"+e.Name())
		if err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		sum := sha256.Sum256(b)
		v := hex.EncodeToString(sum[:8])
		all[e.Name()] = asset{b, types[path.Ext(e.Name())], v, "/static/" + e.Name() + "?v=" + v}
	}
	return all, nil
}

// static serves an asset; with its version in the address it may be kept for good.
func (c *Console) static(w http.ResponseWriter, r *http.Request) {
	a, ok := c.assets[r.PathValue("name")]
	if !ok {
		c.page(func(*visit) error { return errNoPage })(w, r)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == a.version {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("Content-Type", a.contentType)
	h.Set("ETag", `"`+a.version+`"`)
	if r.Header.Get("If-None-Match") == `"`+a.version+`"` {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(a.body)
}

// parsePages parses every page with the layout around it.
func parsePages(from fs.FS) (map[string]*template.Template, error) {
	layout, err := template.New("").Option("missingkey=error").Funcs(functions()).ParseFS(from, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	names, err := fs.Glob(from, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	pages := map[string]*template.Template{}
	for _, name := range names {
		page := strings.TrimSuffix(path.Base(name), ".html")
		if page == "layout" || page == "parts" {
			continue
		}
		t, err := layout.Clone()
		if err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		if pages[page], err = t.ParseFS(from, name); err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
	}
	return pages, nil
}

func functions() template.FuncMap {
	return template.FuncMap{
		"rfc3339": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"clock":   func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04:05 UTC") },
		"short":   func(id string) string { return id[max(0, len(id)-8):] }, // a UUIDv7 begins with its time
		"methods": func() []link {
			return []link{
				{"tok_ok", "Card that is accepted"},
				{"tok_decline", "Card that is declined"},
				{"tok_timeout", "Card whose bank does not answer"},
				{"tok_charge_then_timeout", "Card that is charged, but the answer is lost"},
			}
		},
	}
}
