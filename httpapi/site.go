package httpapi

import (
	"net/http"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
)

// MountSite serves pages beside the API. They bring their own headers, and their own bounds: a page
// asks the API, and only what it asks counts against the bound on requests.
func (a *API) MountSite(paths []string, site http.Handler) {
	serve := adaptor.HTTPHandler(site)
	for _, path := range paths {
		a.app.All(path, func(c *fiber.Ctx) error {
			c.Response().Header.Del("Cache-Control")
			c.Response().Header.Del("X-Content-Type-Options")
			return serve(c)
		})
	}
}
