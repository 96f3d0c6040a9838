// Command generate writes the Grafana dashboards, from the short form in boards.go, to grafana/dashboards.
//
//	go run ./grafana/generate
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	for name, b := range boards() {
		text, err := b.json()
		if err == nil {
			err = os.WriteFile(filepath.Join("grafana", "dashboards", name), text, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "generate (run it in the project's folder):", err)
			os.Exit(1)
		}
	}
}

// board is a dashboard.
type board struct {
	uid, title, about string
	from              string     // such as now-5m
	refresh           string     // such as 5s
	variables         []variable // offered at the top
	panels            []panel    // from left to right and from the top down
}

// variable is a choice at the top of a dashboard. Without values they come from the query.
type variable struct {
	name, label string
	values      []string
	query       string
}

// panel shows queries. Exactly one of row and title is set.
type panel struct {
	row   string // a heading, instead of a panel
	title string
	about string
	kind  string // timeseries unless set
	unit  string // of Grafana
	wide  int    // of 24; 8 unless set
	high  int    // 8 unless set
	stack bool
	ask   []query
}

// query asks Prometheus, or InfluxDB when flux is set.
type query struct {
	prom, flux string
	legend     string
	instant    bool // the present value only
}

type object = map[string]any

// influxWindow is the shortest window that Grafana may ask InfluxDB for. A sum over processes is right only when each of them
// has a sample in every window, and a short time range would be cut finer than they are taken (--collect-every, 1 s).
const influxWindow = "5s"

func (b board) json() ([]byte, error) {
	panels := []object{}
	x, y, lowest := 0, 0, 0
	for i, p := range b.panels {
		wide, high := p.wide, p.high
		if wide == 0 {
			wide = 8
		}
		if high == 0 {
			high = 8
		}
		if p.row != "" {
			wide, high = 24, 1
		}
		if x+wide > 24 {
			x, y = 0, lowest
		}
		at := object{"x": x, "y": y, "w": wide, "h": high}
		x, lowest = x+wide, max(lowest, y+high)
		if p.row != "" {
			panels = append(panels, object{"id": i + 1, "type": "row", "title": p.row, "collapsed": false, "panels": []object{}, "gridPos": at})
			continue
		}
		panels = append(panels, p.object(i+1, at))
	}
	variables := []object{}
	for _, v := range b.variables {
		variables = append(variables, v.object())
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(object{
		"uid": b.uid, "title": b.title, "description": b.about, "tags": []string{"flashsale"}, "schemaVersion": 39, "version": 1, "editable": true,
		"timezone": "browser", "refresh": b.refresh, "time": object{"from": b.from, "to": "now"}, "graphTooltip": 1,
		"timepicker": object{"refresh_intervals": []string{"1s", "5s", "10s", "30s", "1m", "5m"}},
		"templating": object{"list": variables}, "panels": panels,
		"links": []object{{"type": "dashboards", "title": "flashsale", "tags": []string{"flashsale"}, "asDropdown": true, "keepTime": true, "includeVars": true}},
	})
	return out.Bytes(), err
}

func (v variable) object() object {
	o := object{"name": v.name, "label": v.label, "multi": true, "includeAll": true, "allValue": ".*", "current": object{"text": "All", "value": "$__all"}}
	if v.query == "" {
		var options string
		for i, value := range v.values {
			if i > 0 {
				options += ","
			}
			options += value
		}
		o["type"], o["query"] = "custom", options
		return o
	}
	o["type"], o["datasource"], o["refresh"], o["sort"] = "query", source("prometheus"), 2, 1
	o["query"], o["definition"] = object{"query": v.query, "refId": v.name}, v.query
	return o
}

func source(kind string) object { return object{"type": kind, "uid": kind} }

func (p panel) object(id int, at object) object {
	kind := p.kind
	if kind == "" {
		kind = "timeseries"
	}
	from := "prometheus"
	if p.ask[0].flux != "" {
		from = "influxdb"
	}
	targets := []object{}
	for i, q := range p.ask {
		t := object{"refId": string(rune('A' + i)), "datasource": source(from)}
		if q.flux != "" {
			t["query"] = q.flux
		} else {
			t["expr"], t["legendFormat"], t["instant"], t["range"] = q.prom, q.legend, q.instant, !q.instant
		}
		targets = append(targets, t)
	}
	defaults := object{"unit": p.unit, "min": 0}
	options := object{}
	switch kind {
	case "timeseries":
		stacking := "none"
		fill := 10
		if p.stack {
			stacking, fill = "normal", 40
		}
		defaults["custom"] = object{"lineWidth": 1, "fillOpacity": fill, "showPoints": "never", "spanNulls": true, "stacking": object{"mode": stacking}}
		options["legend"] = object{"displayMode": "table", "placement": "bottom", "calcs": []string{"lastNotNull", "max"}}
		options["tooltip"] = object{"mode": "multi", "sort": "desc"}
	case "stat", "bargauge":
		options["reduceOptions"] = object{"calcs": []string{"lastNotNull"}}
		if kind == "bargauge" {
			options["orientation"], options["displayMode"] = "horizontal", "basic"
		}
	}
	o := object{
		"id": id, "type": kind, "title": p.title, "gridPos": at, "datasource": source(from), "targets": targets,
		"fieldConfig": object{"defaults": defaults, "overrides": []object{}}, "options": options,
	}
	if from == "influxdb" {
		o["interval"] = influxWindow
	}
	if p.about != "" {
		o["description"] = p.about
	}
	return o
}
