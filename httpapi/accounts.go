package httpapi

import (
	"context"
	"flashsale/account"

	"github.com/gofiber/fiber/v2"
)

// Accounts are the use cases behind the auth routes.
type Accounts interface {
	Register(ctx context.Context, email, password string) (account.User, error)
	Login(ctx context.Context, email, password string) (account.Tokens, error)
	Refresh(ctx context.Context, refresh string) (account.Tokens, error)
}

type credentials struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

// MountAccounts adds the routes of the account service.
func (a *API) MountAccounts(s Accounts) {
	a.app.Post("/api/v1/auth/register", func(c *fiber.Ctx) error {
		body, err := decode[credentials](c)
		if err != nil {
			return err
		}
		u, err := s.Register(c.UserContext(), body.Email, body.Password)
		if err != nil {
			return err
		}
		return c.Status(fiber.StatusCreated).JSON(fiber.Map{"id": u.ID, "email": u.Email, "role": u.Role, "created_at": u.CreatedAt})
	})
	a.app.Post("/api/v1/auth/login", func(c *fiber.Ctx) error {
		body, err := decode[credentials](c)
		if err != nil {
			return err
		}
		t, err := s.Login(c.UserContext(), body.Email, body.Password)
		if err != nil {
			return err
		}
		return c.JSON(viewTokens(t))
	})
	a.app.Post("/api/v1/auth/refresh", func(c *fiber.Ctx) error {
		body, err := decode[struct {
			Refresh string `json:"refresh_token"`
		}](c)
		if err != nil {
			return err
		}
		t, err := s.Refresh(c.UserContext(), body.Refresh)
		if err != nil {
			return err
		}
		return c.JSON(viewTokens(t))
	})
}

func viewTokens(t account.Tokens) fiber.Map {
	return fiber.Map{"access_token": t.Access, "refresh_token": t.Refresh, "token_type": "Bearer", "expires_in": int(t.ExpiresIn.Seconds())}
}
