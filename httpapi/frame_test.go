package httpapi

import (
	"flashsale/account"
	"flashsale/id"
	"log/slog"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// BenchmarkFrame is what the frame around every request costs, untraced: a request to a route that does
// nothing.
func BenchmarkFrame(b *testing.B) {
	a := New(Config{
		Verify:  func(string) (id.ID, account.Role, error) { return id.ID{}, account.Shopper, nil },
		Timeout: time.Second, MaxRequests: 8, Clock: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	a.MountAudit(nil)
	serve := a.app.Handler()
	var c fasthttp.RequestCtx
	c.Request.SetRequestURI("/api/v1/nothing")
	c.Request.Header.Set("X-Request-Id", "4bf92f3577b34da6a3ce929d0e0e4736")
	b.ReportAllocs()
	for b.Loop() {
		c.Response.Reset()
		c.ResetUserValues()
		serve(&c)
	}
}
