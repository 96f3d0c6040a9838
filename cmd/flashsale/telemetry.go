package main

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/engine"
	"flashsale/httpapi"
	"flashsale/reservation"
	"flashsale/telemetry/collector"
	"flashsale/telemetry/metrics"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"slices"
	"strings"
	"time"
)

// service names this process by its roles, in their usual order: all, or such as reservation+inventory.
func (c *Config) service() string {
	if len(c.Roles) == len(allRoles()) {
		return "all"
	}
	var named []string
	for _, r := range allRoles() {
		if slices.Contains(c.Roles, r) {
			named = append(named, r)
		}
	}
	return strings.Join(named, "+")
}

// instance names this process among those with the same roles, the same again after a restart.
func (a *app) instance() string {
	if a.cfg.Instance != "" {
		return a.cfg.Instance
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	addr := a.cfg.Listen
	if a.listen != nil {
		addr = a.listen.Addr().String() // which port 0 has become
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return host
	}
	return net.JoinHostPort(host, port)
}

// collect adds the loop that writes CPU and memory to InfluxDB, if there is one.
func (a *app) collect(ctx context.Context) error {
	if a.cfg.InfluxURL == "" {
		return nil
	}
	c, err := collector.New(ctx, collector.Options{
		URL: a.cfg.InfluxURL, Token: a.cfg.InfluxToken, Org: a.cfg.InfluxOrg, Bucket: a.cfg.InfluxBucket,
		Service: a.cfg.service(), Instance: a.instance(), Wiring: string(a.cfg.Mode),
		Every: a.cfg.CollectEvery, Root: os.DirFS("/"), Clock: a.clock, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.loops = append(a.loops, c.Run)
	return nil
}

// measure makes the metrics, if somebody can read them. Without them nothing is decorated.
func (a *app) measure(ctx context.Context) error {
	if a.cfg.AdminListen == "" {
		return nil
	}
	var err error
	if a.admin, err = (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.AdminListen); err != nil {
		return fmt.Errorf("cannot listen on %s for metrics; is another process there? %w", a.cfg.AdminListen, err)
	}
	a.closers = append(a.closers, func() { _ = a.admin.Close() })
	a.metrics = metrics.New(a.cfg.service(), string(a.cfg.Mode), a.log)
	return nil
}

// watch begins to look at what is stored, after all roles have been added.
func (a *app) watch() {
	if a.metrics == nil {
		return
	}
	m := a.metrics
	m.Busy(a.api.Busy, a.cfg.MaxRequests)
	m.Routes(a.api.Routes())
	if len(a.audit.Outboxes) > 0 {
		m.Outboxes(a.audit.Outboxes, a.cfg.LookEvery)
	}
	if a.wires.queue != nil {
		m.Queued(a.wires.queue, 5*a.cfg.LookEvery, 30*a.cfg.LookEvery)
	}
	if h := a.wires.http; h != nil {
		for _, to := range h.Peers() {
			_, most := h.Calls(to)
			m.Peer(string(to), func() float64 { return h.BreakerOpen(to) }, func() int { n, _ := h.Calls(to); return n }, most)
		}
	}
	a.loops = append(a.loops, m.Run, a.serveAdmin)
	if a.cfg.AuditEvery > 0 {
		a.loops = append(a.loops, a.auditLoop)
	}
}

// auditNow audits a running system and notes the result.
func (a *app) auditNow(ctx context.Context) ([]audit.Check, error) {
	checks, err := a.auditQuietly(ctx)
	if a.metrics != nil {
		a.metrics.Audited(checks, err)
	}
	return checks, err
}

// auditLoop audits again and again. The log says what has failed twice in a row: in a busy sale something is always on
// its way from one service to another.
func (a *app) auditLoop(ctx context.Context) error {
	before := map[string]bool{}
	for sleep(ctx, a.cfg.AuditEvery) == nil {
		checks, err := a.auditNow(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			a.log.WarnContext(ctx, "audit could not be run", "error", err)
		}
		failed := map[string]bool{}
		for _, c := range checks {
			if c.OK {
				continue
			}
			if failed[c.Name] = true; before[c.Name] {
				a.log.ErrorContext(ctx, "audit failed", "check", c.Name, "figures", c.Figures)
			}
		}
		before = failed
	}
	return nil
}

// serveAdmin answers on the operators' own listener until ctx ends.
func (a *app) serveAdmin(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics.Handler())
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound) // flags may be secrets
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 2 * time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(a.admin); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// reserving counts the answers to shoppers who ask for units.
type reserving struct {
	httpapi.Reservations
	answered func(decided, replayed bool, err error)
}

// Reserve implements httpapi.Reservations.
func (r reserving) Reserve(ctx context.Context, req reservation.Request, trace string) (engine.Outcome, error) {
	out, err := r.Reservations.Reserve(ctx, req, trace)
	r.answered(out.Decided, out.Replayed, err)
	return out, err
}

// Come implements httpapi.Reservations.
func (r reserving) Come(lot int) engine.Turned {
	turned := r.Reservations.Come(lot)
	if turned.Away {
		r.answered(false, false, reservation.ErrOverloaded)
	}
	return turned
}
