package amqp

import (
	"context"
	"errors"
	"flashsale/transport"
	"sync"

	rabbit "github.com/rabbitmq/amqp091-go"
)

// subscription is a service's queue as this process consumes it.
//
// When a consumer dies, every message that it held counts one more delivery, and one that has counted
// DeliveryLimit is a dead letter. A message that kills whoever handles it must not take those beside it
// along: one that has come back several times is handled alone, and with caution only one message is
// held at all. A process begins with caution, until it meets a message that is not suspect: its
// predecessor may have died of the next one.
type subscription struct {
	t       *Transport
	service transport.Service
	ch      *rabbit.Channel
	tag     string
	caution bool
}

// suspect is how many deliveries without an end make a message one that is handled alone. Those that
// were merely beside it when a consumer died have one.
const suspect = 2

// deliveries returns how often a message was delivered before without an end.
func deliveries(d rabbit.Delivery) int64 { return number(d, "x-delivery-count") }

// open begins to consume.
func (s *subscription) open() (<-chan rabbit.Delivery, error) {
	if err := s.ch.Qos(s.prefetch(), 0, false); err != nil {
		return nil, err
	}
	return s.ch.Consume(s.t.names.queue(s.service), s.tag, false, false, false, false, nil)
}

func (s *subscription) prefetch() int {
	if s.caution {
		return 1
	}
	return s.t.opts.Workers
}

// run handles messages until the channel is closed, or ctx ends and what is in hand is finished.
func (s *subscription) run(ctx context.Context, deliveries <-chan rabbit.Delivery) error {
	gone := s.ch.NotifyClose(make(chan *rabbit.Error, 1))
	for {
		aside := s.round(ctx, deliveries)
		for _, d := range aside { // nothing else is held now
			s.t.deliver(ctx, s.service, d)
		}
		s.caution = len(aside) > 0
		select {
		case err := <-gone:
			if err == nil {
				return errors.New("channel closed")
			}
			return err
		default:
		}
		if ctx.Err() != nil {
			return nil
		}
		var err error
		if deliveries, err = s.open(); err != nil {
			return err
		}
	}
}

// round handles messages until the channel is closed, ctx ends, or there is a reason to consume with
// or without caution from now on. It returns the messages that are to be handled alone.
func (s *subscription) round(ctx context.Context, deliver <-chan rabbit.Delivery) (aside []rabbit.Delivery) {
	over := make(chan struct{})
	end := sync.OnceFunc(func() { close(over) })
	var canceller, workers sync.WaitGroup
	canceller.Go(func() {
		select {
		case <-over:
		case <-ctx.Done():
		}
		_ = s.ch.Cancel(s.tag, false) // no new deliveries; the workers end with those that are here
	})
	var mu sync.Mutex
	for range s.prefetch() {
		workers.Go(func() {
			for d := range deliver {
				if !s.caution && deliveries(d) >= suspect {
					mu.Lock()
					aside = append(aside, d)
					mu.Unlock()
					end()
					continue
				}
				s.t.deliver(ctx, s.service, d)
				if s.caution && deliveries(d) < suspect {
					end()
				}
			}
		})
	}
	workers.Wait()
	end()
	canceller.Wait()
	return aside
}
