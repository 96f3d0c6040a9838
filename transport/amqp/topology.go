package amqp

import (
	"flashsale/transport"
	"fmt"
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
		if _, err := ch.QueueDeclare(name, true, false, false, false, args); err != nil {
			return fmt.Errorf("amqp: queue %s: %w", name, err)
		}
		return nil
	}
	// Messages that a crashing consumer never acknowledges end in the dead letters too.
	err := queue(n.queue(s), quorum(rabbit.Table{
		"x-delivery-limit": int32(o.DeliveryLimit), "x-max-length": int32(o.Depth),
		"x-dead-letter-exchange": n.deadExchange(), "x-dead-letter-routing-key": string(s), "x-dead-letter-strategy": "at-least-once",
	}))
	if err != nil {
		return err
	}
	if err := ch.QueueBind(n.queue(s), string(s)+".#", n.events(), false, nil); err != nil {
		return fmt.Errorf("amqp: bind %s: %w", n.queue(s), err)
	}
	if err := queue(n.dead(s), quorum(nil)); err != nil {
		return err
	}
	if err := ch.QueueBind(n.dead(s), string(s), n.deadExchange(), false, nil); err != nil {
		return fmt.Errorf("amqp: bind %s: %w", n.dead(s), err)
	}
	// The ladder: a queue a delay, from which messages fall back into the service's queue.
	for _, d := range o.Delays {
		err := queue(n.retry(s, d), quorum(rabbit.Table{
			"x-message-ttl": d.Milliseconds(), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": n.queue(s), "x-dead-letter-strategy": "at-least-once",
		}))
		if err != nil {
			return err
		}
	}
	return nil
}
