package amqp

import (
	"errors"
	"flashsale/transport"
	"fmt"
	"math"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
)

// names are the exchanges and queues; the prefix keeps several installations on one broker apart.
type names struct{ prefix string }

func (n names) events() string                                { return n.prefix + "events" }
func (n names) deadExchange() string                          { return n.prefix + "dead" }
func (n names) queue(s transport.Service) string              { return n.prefix + string(s) }
func (n names) dead(s transport.Service) string               { return n.prefix + string(s) + ".dead" }
func (n names) route(s transport.Service, kind string) string { return string(s) + "." + kind }

func (n names) retry(s transport.Service, d time.Duration) string {
	return fmt.Sprintf("%s%s.retry.%d", n.prefix, s, d.Milliseconds())
}

// parked is where dead letters wait for their automatic replay.
func (n names) parked(s transport.Service, d time.Duration) string {
	return fmt.Sprintf("%s.%d", n.dead(s), d.Milliseconds())
}

// lock is there while somebody goes through a service's dead letters.
func (n names) lock(s transport.Service) string { return n.dead(s) + ".lock" }

// noLimit is the delivery limit of queues whose messages are looked at and put back, which counts as
// a delivery each time. It is said aloud: without it RabbitMQ 4 assumes 20, and then drops.
const noLimit = int32(math.MaxInt32)

// declare makes exchanges and queues; what is there with the same arguments stays. Only quorum
// queues: a classic queue confirms before the message is on disk. Nothing here needs more than
// RabbitMQ 3.10.
func declare(ch *rabbit.Channel, n names, o Options) error {
	if err := ch.ExchangeDeclare(n.events(), "topic", true, false, false, false, nil); err != nil {
		return fmt.Errorf("amqp: exchange %s: %w", n.events(), err)
	}
	if err := ch.ExchangeDeclare(n.deadExchange(), "direct", true, false, false, false, nil); err != nil {
		return fmt.Errorf("amqp: exchange %s: %w", n.deadExchange(), err)
	}
	for _, s := range o.Services {
		if err := declareService(ch, n, s, o); err != nil {
			return err
		}
	}
	return nil
}

func declareService(ch *rabbit.Channel, n names, s transport.Service, o Options) error {
	quorum := func(more rabbit.Table) rabbit.Table {
		t := rabbit.Table{"x-queue-type": "quorum", "x-overflow": "reject-publish"}
		for k, v := range more {
			t[k] = v
		}
		return t
	}
	queue := func(name string, args rabbit.Table) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, args)
		var said *rabbit.Error
		if errors.As(err, &said) && said.Code == rabbit.PreconditionFailed {
			return fmt.Errorf("amqp: queue %s was declared with other arguments; empty it (move its messages with a shovel), delete it and start again: %w", name, err)
		}
		if err != nil {
			return fmt.Errorf("amqp: queue %s: %w", name, err)
		}
		return nil
	}
	// Messages that a crashing consumer never acknowledges end in the dead letters too.
	err := queue(n.queue(s), quorum(rabbit.Table{
		"x-delivery-limit": int32(o.DeliveryLimit), "x-max-length": int32(o.Depth), "x-max-length-bytes": int64(o.Bytes),
		"x-dead-letter-exchange": n.deadExchange(), "x-dead-letter-routing-key": string(s), "x-dead-letter-strategy": "at-least-once",
	}))
	if err != nil {
		return err
	}
	if err := ch.QueueBind(n.queue(s), string(s)+".#", n.events(), false, nil); err != nil {
		return fmt.Errorf("amqp: bind %s: %w", n.queue(s), err)
	}
	if err := queue(n.dead(s), quorum(rabbit.Table{"x-delivery-limit": noLimit})); err != nil {
		return err
	}
	if err := ch.QueueBind(n.dead(s), string(s), n.deadExchange(), false, nil); err != nil {
		return fmt.Errorf("amqp: bind %s: %w", n.dead(s), err)
	}
	// From these messages fall back into the service's queue by themselves: the ladder, a queue a delay,
	// and the dead letters that are replayed automatically, a queue a pause.
	falls := func(name string, after time.Duration, more rabbit.Table) error {
		more["x-message-ttl"], more["x-dead-letter-strategy"] = after.Milliseconds(), "at-least-once"
		more["x-dead-letter-exchange"], more["x-dead-letter-routing-key"] = "", n.queue(s)
		return queue(name, quorum(more))
	}
	for _, d := range o.Delays {
		if err := falls(n.retry(s, d), d, rabbit.Table{}); err != nil {
			return err
		}
	}
	for _, d := range o.Pauses {
		if err := falls(n.parked(s, d), d, rabbit.Table{"x-delivery-limit": noLimit}); err != nil {
			return err
		}
	}
	return nil
}
