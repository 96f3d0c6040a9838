package main

import (
	"context"
	"flashsale/httpapi"
	"flashsale/telemetry/tracing"
	"flashsale/transport"
	"slices"
	"strings"
	"time"
)

// openTracing starts to follow requests, when there is somebody to tell.
func (a *app) openTracing(ctx context.Context) error {
	if a.cfg.OTLPEndpoint == "" {
		return nil
	}
	export, err := tracing.OTLP(ctx, a.cfg.OTLPEndpoint, a.log)
	if err != nil {
		return err
	}
	a.trace, err = tracing.New(tracing.Options{
		Export: export, Ratio: a.cfg.TraceRatio, Slow: a.cfg.TraceSlow, Instance: a.instance(), Wiring: string(a.cfg.Mode),
	})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, func() {
		ctx, cancel := context.WithTimeout(context.Background(), traceFlush)
		defer cancel()
		if err := a.trace.Close(ctx); err != nil {
			a.log.Warn("the last traces are lost", "error", err)
		}
	})
	return nil
}

const traceFlush = 5 * time.Second

// traceRequests is what the API calls for each request, nil when nobody follows them.
func (a *app) traceRequests() func(context.Context, httpapi.Incoming) (context.Context, string, func(string, int)) {
	if a.trace == nil {
		return nil
	}
	return func(ctx context.Context, in httpapi.Incoming) (context.Context, string, func(string, int)) {
		return a.trace.Request(ctx, tracing.Incoming{
			Service: a.cfg.serviceOf(in.Path), Method: in.Method, Path: in.Path, Request: in.Request, TraceParent: in.TraceParent, Remote: in.Remote,
		})
	}
}

// serviceOf returns the service of this process that a path of the API belongs to. What every process
// has, such as the audit, belongs to its first role.
func (c *Config) serviceOf(path string) transport.Service {
	path = strings.TrimPrefix(path, "/api/v1/")
	path = strings.TrimPrefix(path, "admin/")
	head, rest, _ := strings.Cut(path, "/")
	role := ""
	switch head {
	case "reservations":
		role = "reservation"
	case "products", "sales":
		role = "catalog"
	case "carts", "orders":
		role = "order"
		if strings.HasSuffix(rest, "/payments") || strings.HasSuffix(rest, "/refund") {
			role = "payment"
		}
	case "payments":
		role = "payment"
	case "auth":
		role = "account"
	}
	if !c.has(role) {
		role = c.Roles[max(0, slices.IndexFunc(c.Roles, func(r string) bool { return r != "console" }))]
	}
	return transport.Service(role)
}
