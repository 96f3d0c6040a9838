package testenv

import (
	"context"
	"flashsale/id"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// AMQPURLVar and RabbitAPIVar name a RabbitMQ server and its management API, with a user that may
// create virtual hosts.
const (
	AMQPURLVar   = "FLASHSALE_TEST_AMQP_URL"
	RabbitAPIVar = "FLASHSALE_TEST_RABBITMQ_API"
)

// RabbitMQ creates a virtual host and returns its AMQP URL. It is removed after the test.
func RabbitMQ(t testing.TB) string {
	t.Helper()
	server := os.Getenv(AMQPURLVar)
	if server == "" || os.Getenv(RabbitAPIVar) == "" {
		t.Fatalf("no RabbitMQ to test on: run `make test`, or set %s and %s", AMQPURLVar, RabbitAPIVar)
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("%s: %v", AMQPURLVar, err)
	}
	name := "test-" + id.New(time.Now()).String()
	RabbitAPI(t, http.MethodPut, "/api/vhosts/"+name, "{}")
	RabbitAPI(t, http.MethodPut, "/api/permissions/"+name+"/"+u.User.Username(), `{"configure":".*","write":".*","read":".*"}`)
	t.Cleanup(func() { RabbitAPI(t, http.MethodDelete, "/api/vhosts/"+name, "") })
	u.Path = "/" + name
	return u.String()
}

// RabbitAPI calls the management API and returns the answer's body. A refusal fails the test.
func RabbitAPI(t testing.TB, method, path, body string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, os.Getenv(RabbitAPIVar)+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("RabbitMQ's management API: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("RabbitMQ's management API: %s %s: %d %s %v", method, path, resp.StatusCode, b, err)
	}
	return string(b)
}
