package httpapi

import (
	"context"
	"flashsale/account"
	"flashsale/audit"

	"github.com/gofiber/fiber/v2"
)

// MountAudit adds the route that audits the books, for operators.
func (a *API) MountAudit(run func(ctx context.Context) ([]audit.Check, error)) {
	a.app.Get("/api/v1/admin/audit", a.auth(account.Operator), func(c *fiber.Ctx) error {
		checks, err := run(c.UserContext())
		if err != nil {
			return err
		}
		return c.JSON(fiber.Map{"clean": audit.Clean(checks), "checks": checks})
	})
}
