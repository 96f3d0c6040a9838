package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestDashboardsAreGenerated: the dashboards are what the short form says, no two panels of one lie on
// each other, and every one has a question.
func TestDashboardsAreGenerated(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../dashboards/*.json")
	if err != nil || len(files) != len(boards()) {
		t.Errorf("%d dashboards, want %d: run go run ./grafana/generate, and remove what nobody writes", len(files), len(boards()))
	}
	for name, b := range boards() {
		want, err := b.json()
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("../dashboards", name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is old: run go run ./grafana/generate (%v)", name, err)
		}
		var read struct {
			Panels []struct {
				Title   string
				Type    string
				Targets []any
				GridPos struct{ X, Y, W, H int }
			}
		}
		if err := json.Unmarshal(want, &read); err != nil {
			t.Fatal(err)
		}
		taken := map[[2]int]string{}
		for _, p := range read.Panels {
			if len(p.Targets) == 0 && p.Type != "row" {
				t.Errorf("%s: %q asks nothing", name, p.Title)
			}
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other, lies := taken[[2]int{x, y}]; lies || x >= 24 {
						t.Fatalf("%s: %q lies on %q, or beyond the edge", name, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
		}
	}
}
