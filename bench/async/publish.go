package main

import (
	"context"
	"errors"
	"flashsale/bench/lab"
	"flashsale/bench/testbed"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"flashsale/transport/amqp"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
)

// senders is how many requests are under way at once: as many as wrk has connections.
const senders = 200

// perRound bounds a round below the depth of a queue.
const perRound = 90_000

// claim is a reservation.requested as a shopper's request makes it.
func claim(n int) transport.Envelope {
	now := time.Now()
	item := inventory.ItemID{Sale: id.Derive("sale"), SKU: "SNEAKER-1"}
	req := reservation.Request{User: id.New(now), Key: fmt.Sprint("key-", n), Sale: item.Sale, SKU: item.SKU, Quantity: 1}
	c := inventory.Claim{Request: req, Legs: []inventory.Leg{{Take: id.New(now), Bucket: inventory.BucketID{Item: item}, Epoch: 1, Qty: 1}}}
	return transport.Repeatable(inventory.EventRequested, transport.Reservation, req.ID(), c.Legs[0].Take.String(), now,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", inventory.NewClaimData(c, true))
}

// publish compares the transport's Send with a bare publisher: the same bodies, the same kind of queue,
// both persistent, mandatory and confirmed. Nobody consumes.
func (b *bench) publish(ctx context.Context) ([]lab.Figure, error) {
	const prefix = "publish."
	t := amqp.New(amqp.Options{URL: b.lab.Rabbit.URL(), Prefix: prefix, Services: []transport.Service{transport.Inventory}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := t.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { _ = t.Stop(context.WithoutCancel(ctx)) }()
	c, err := rabbit.Dial(b.lab.Rabbit.URL())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	ch, err := c.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		return nil, err
	}
	const queue = prefix + "inventory"
	round := func(send func(context.Context, time.Duration) (int64, error)) func(context.Context) (lab.Measured, error) {
		return func(ctx context.Context) (lab.Measured, error) {
			if _, err := ch.QueuePurge(queue, false); err != nil {
				return lab.Measured{}, err
			}
			parts := b.lab.Parts(nil)
			before, err := lab.Read(parts)
			if err != nil {
				return lab.Measured{}, err
			}
			began := time.Now()
			n, err := send(ctx, b.settings.Round)
			if err != nil {
				return lab.Measured{}, err
			}
			took := time.Since(began)
			after, err := lab.Read(parts)
			return lab.Measured{Rate: float64(n) / took.Seconds(), Good: n, Took: took, Used: after.Since(before)}, err
		}
	}
	bare := func(ctx context.Context, d time.Duration) (int64, error) { return bareRound(ctx, ch, queue, d) }
	ours := func(ctx context.Context, d time.Duration) (int64, error) { return sendRound(ctx, t, d) }
	for _, f := range []func(context.Context, time.Duration) (int64, error){bare, ours} {
		if _, err := round(f)(ctx); err != nil {
			return nil, err
		}
	}
	bases, ms, err := b.lab.Interleave(ctx, b.settings.Repeats, "publish", round(bare), round(ours))
	if err != nil {
		return nil, err
	}
	f := lab.Compare("publish", "confirmed events/s", fmt.Sprintf("a bare publisher of the same bodies to the same queue, confirms in batches of %d", batch), bases, ms, lab.Rate)
	f.Stock, f.CPU = nil, nil
	f.Notes = append(f.Notes, fmt.Sprintf("%d senders at once; CPU µs per event: RabbitMQ %s, this program %s; bare: %s and %s", senders,
		median(ms, "RabbitMQ"), median(ms, lab.Harness), median(bases, "RabbitMQ"), median(bases, lab.Harness)))
	return []lab.Figure{f.NoLessThan(0.6)}, nil
}

func median(ms []lab.Measured, part string) string {
	return testbed.Number(lab.Median(lab.Pick(ms, lab.Part(part))))
}

// sendRound sends by the transport, from many goroutines as requests do.
func sendRound(ctx context.Context, t *amqp.Transport, d time.Duration) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, d+time.Minute)
	defer cancel()
	end := time.Now().Add(d)
	var n atomic.Int64
	errs := make([]error, senders)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for time.Now().Before(end) {
				next := n.Add(1)
				if next > perRound {
					n.Add(-1)
					return
				}
				if _, errs[i] = t.Send(ctx, transport.Inventory, claim(int(next))); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return n.Load(), errors.Join(errs...)
}

// batch is how many messages the bare publisher sends before it waits for their confirms.
const batch = 1000

func bareRound(ctx context.Context, ch *rabbit.Channel, queue string, d time.Duration) (int64, error) {
	end := time.Now().Add(d)
	n := int64(0)
	for time.Now().Before(end) && n+batch <= perRound {
		waits := make([]*rabbit.DeferredConfirmation, batch)
		for i := range waits {
			body, err := transport.Marshal(claim(int(n) + i))
			if err != nil {
				return n, err
			}
			waits[i], err = ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, rabbit.Publishing{ContentType: transport.ContentType, DeliveryMode: rabbit.Persistent, Body: body})
			if err != nil {
				return n, err
			}
		}
		for _, w := range waits {
			if ok, err := w.WaitContext(ctx); err != nil || !ok {
				return n, fmt.Errorf("the bare publisher was refused: %w", err)
			}
		}
		n += batch
	}
	return n, nil
}
