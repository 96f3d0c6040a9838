// Package logs lets every log line of a request say which request and which trace it belongs to. It
// uses the standard library only.
package logs

import (
	"context"
	"log/slog"
)

// Facts are what the lines of one request have in common.
type Facts struct {
	Request string // the request's id, as nginx or the API gave it; empty for a step in another process
	Trace   string // W3C trace context, or empty
}

// Key is under which a context keeps its Facts.
type Key struct{}

// facts is a context that knows its Facts: one allocation, for it is made for every request.
type facts struct {
	context.Context
	facts Facts
}

// Value implements context.Context.
func (f *facts) Value(key any) any {
	if _, ok := key.(Key); ok {
		return f.facts
	}
	return f.Context.Value(key)
}

// With returns a context whose log lines carry the facts.
func With(ctx context.Context, f Facts) context.Context { return &facts{ctx, f} }

// Of returns the facts of a context, or none.
func Of(ctx context.Context) Facts {
	if f, ok := ctx.(*facts); ok {
		return f.facts
	}
	f, _ := ctx.Value(Key{}).(Facts)
	return f
}

// The names under which a line carries the facts.
const (
	RequestKey = "request"
	TraceKey   = "trace"
)

// Handler returns a handler that adds the facts of a line's context, unless the line names them itself.
func Handler(next slog.Handler) slog.Handler { return handler{next} }

type handler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	f := Of(ctx)
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case RequestKey:
			f.Request = ""
		case TraceKey:
			f.Trace = ""
		}
		return true
	})
	if f.Request != "" || f.Trace != "" {
		r = r.Clone() // the caller's record may be another handler's too
	}
	if f.Request != "" {
		r.AddAttrs(slog.String(RequestKey, f.Request))
	}
	if f.Trace != "" {
		r.AddAttrs(slog.String(TraceKey, f.Trace))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(as []slog.Attr) slog.Handler { return handler{h.Handler.WithAttrs(as)} }

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }

// TraceID shortens a trace context to the trace's id, by which a trace is found. It is a ReplaceAttr of
// slog.HandlerOptions: the code logs the context that it has.
func TraceID(_ []string, a slog.Attr) slog.Attr {
	if a.Key == TraceKey && a.Value.Kind() == slog.KindString {
		if s := a.Value.String(); len(s) == 55 && s[2] == '-' && s[35] == '-' {
			a.Value = slog.StringValue(s[3:35])
		}
	}
	return a
}
