package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"testing"
)

// front sends each path to the process of its service, as nginx does in front of split roles.
func front(t *testing.T, services map[string]*url.URL) string {
	t.Helper()
	routes := []struct {
		path *regexp.Regexp
		role string
	}{
		{regexp.MustCompile(`^/api/v1/auth/`), "account"},
		{regexp.MustCompile(`^/api/v1/(products|sales|admin/products|admin/sales)`), "catalog"},
		{regexp.MustCompile(`^/api/v1/orders/[^/]+/payments$`), "payment"},
		{regexp.MustCompile(`^/api/v1/(payments|admin/orders)/`), "payment"},
		{regexp.MustCompile(`^/api/v1/(carts|orders)`), "order"},
		{regexp.MustCompile(`^/api/v1/reservations`), "reservation"},
	}
	proxies := map[string]*httputil.ReverseProxy{}
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	t.Cleanup(transport.CloseIdleConnections)
	for role, u := range services {
		proxies[role] = &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, v := range routes {
			if v.path.MatchString(r.URL.Path) {
				proxies[v.role].ServeHTTP(w, r)
				return
			}
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}
