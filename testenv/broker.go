package testenv

import (
	"context"
	"flashsale/bench/testbed"
	"testing"
)

// Broker starts a RabbitMQ of its own for one test, which may kill it, wipe it and have it come back. It
// ends with the test.
func Broker(t testing.TB) *testbed.RabbitMQ {
	t.Helper()
	b, err := testbed.StartRabbitMQ(context.WithoutCancel(t.Context()), t.TempDir())
	if err != nil {
		t.Fatalf("RabbitMQ: run `make test`, or install RabbitMQ 3.10 or newer: %v", err)
	}
	t.Cleanup(b.Stop)
	return b
}
