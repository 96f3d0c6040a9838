// Command echo is the baseline of the benchmark: a bare Fiber handler that parses the body of a
// reservation request and echoes it, with the framework configured as httpapi configures it.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/gofiber/fiber/v2"
)

// body has the fields of httpapi's request, parsed as strictly.
type body struct {
	Sale     string `json:"sale_id"`
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

func app() *fiber.App {
	app := fiber.New(fiber.Config{
		DisableStartupMessage: true, BodyLimit: 16 << 10, ReadBufferSize: 8 << 10,
		ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		Immutable: true, StrictRouting: true, CaseSensitive: true,
	})
	app.Post("/api/v1/reservations", func(c *fiber.Ctx) error {
		var b body
		if err := json.Unmarshal(c.Body(), &b, json.RejectUnknownMembers(true)); err != nil {
			return fiber.ErrBadRequest
		}
		return c.Status(fiber.StatusCreated).JSON(b)
	})
	app.Get("/readyz", func(c *fiber.Ctx) error { return c.SendStatus(fiber.StatusOK) })
	return app
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	flag.Parse()
	if err := run(*listen); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run(listen string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	a := app()
	go func() {
		<-ctx.Done()
		_ = a.ShutdownWithTimeout(2 * time.Second)
	}()
	return a.Listener(l)
}
