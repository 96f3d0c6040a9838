package amqp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flashsale/groupcommit"
	"flashsale/transport"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/go-json-experiment/json/jsontext"
	rabbit "github.com/rabbitmq/amqp091-go"
)

// Envelopes that are sent at the same time by the same route travel as one message, a CloudEvents batch:
// a message costs the broker the same whether it carries one envelope or fifty. A batch is only a way to
// travel. Its envelopes are handled, tried again and buried each by itself, as messages of their own from
// then on, and one that comes back because its consumers died is taken apart before anything else.

// batchType is the media type of a message that carries several envelopes.
const batchType = "application/cloudevents-batch+json; charset=utf-8"

// The bounds of a batch, and of the sends that wait for one.
const (
	maxBatch      = 64
	maxBatchBytes = 128 << 10 // an envelope that is larger travels alone
	maxSending    = 20_000
	publishing    = 2 // groups under way at once per service: what comes while one waits for its confirm need not wait for it
)

// outgoing is an envelope on its way out.
type outgoing struct {
	key string // routing key
	msg rabbit.Publishing
}

// sends gathers what is sent at the same time, for every service by itself: a queue that answers slowly
// holds nobody else up.
type sends map[transport.Service]*groupcommit.Group[outgoing, error]

func (t *Transport) newSends() *sends {
	all := sends{}
	for _, s := range t.opts.Services {
		all[s] = groupcommit.New(4*maxBatch, maxSending, publishing, t.store)
	}
	return &all
}

func (s sends) close() {
	for _, group := range s {
		group.Close()
	}
}

// do stores an envelope together with others. A service that is not known here has no others.
func (s sends) do(ctx context.Context, t *Transport, to transport.Service, o outgoing) error {
	group := s[to]
	if group == nil {
		return t.confirm(ctx, t.names.events(), o.key, o.msg)
	}
	said, err := group.Do(ctx, o)
	switch {
	case errors.Is(err, groupcommit.ErrFull):
		return fmt.Errorf("%w: %d sends wait for RabbitMQ", transport.ErrOverloaded, maxSending)
	case errors.Is(err, groupcommit.ErrStopped):
		return transport.ErrStopped
	case err != nil:
		return fmt.Errorf("amqp: not known whether it was stored: %w", err)
	}
	return said
}

// store publishes a group in as few messages as its routes allow, and says of each envelope what became
// of its message.
func (t *Transport) store(ctx context.Context, group []outgoing) ([]error, error) {
	said := make([]error, len(group))
	var messages sync.WaitGroup
	for _, part := range batches(group) {
		messages.Go(func() {
			err := t.confirm(ctx, t.names.events(), group[part[0]].key, pack(group, part))
			for _, i := range part {
				said[i] = err
			}
		})
	}
	messages.Wait()
	return said, nil
}

// batches cuts a group into messages: the places of the envelopes that each carries, in order.
func batches(group []outgoing) [][]int {
	var parts [][]int
	open := map[string]int{} // by route: the message that has room
	sizes := []int{}
	for i, o := range group {
		n, has := open[o.key]
		if !has || len(parts[n]) == maxBatch || sizes[n]+len(o.msg.Body) > maxBatchBytes {
			n = len(parts)
			parts, sizes, open[o.key] = append(parts, nil), append(sizes, 0), n
		}
		parts[n], sizes[n] = append(parts[n], i), sizes[n]+len(o.msg.Body)
	}
	return parts
}

// pack makes the message of some envelopes of one route.
func pack(group []outgoing, part []int) rabbit.Publishing {
	msg := group[part[0]].msg
	if len(part) == 1 {
		return msg
	}
	var body bytes.Buffer
	for n, i := range part {
		if n == 0 {
			body.WriteByte('[')
		} else {
			body.WriteByte(',')
		}
		body.Write(group[i].msg.Body)
	}
	body.WriteByte(']')
	msg.Body, msg.ContentType = body.Bytes(), batchType
	msg.Headers = rabbit.Table{headerAttempts: int32(0), "traceparent": ""} // each envelope has its own
	return msg
}

// unpack returns the envelopes of a batch as the messages that they would have been.
func unpack(d rabbit.Delivery) ([]rabbit.Delivery, error) {
	bad := func(err error) ([]rabbit.Delivery, error) {
		return nil, transport.PermanentAs(transport.ReasonMalformed, fmt.Errorf("amqp: not a batch of envelopes: %w", err))
	}
	in := jsontext.NewDecoder(bytes.NewReader(d.Body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) // an envelope's own reader judges it
	if begin, err := in.ReadToken(); err != nil || begin.Kind() != '[' {
		return bad(cmp.Or(err, errors.New("it does not begin with [")))
	}
	parts := make([]rabbit.Delivery, 0, maxBatch)
	for in.PeekKind() != ']' {
		body, err := in.ReadValue()
		if err != nil {
			return bad(err)
		}
		part := d
		part.ContentType, part.Body = transport.ContentType, bytes.Clone(body)
		parts = append(parts, part)
	}
	if _, err := in.ReadToken(); err != nil {
		return bad(err)
	}
	if _, err := in.ReadToken(); !errors.Is(err, io.EOF) {
		return bad(errors.New("something follows it"))
	}
	return parts, nil
}

// takenApart is how many deliveries without an end a batch may have: one of its envelopes may be what
// kills its consumers, and must not take the others along.
const takenApart = 2

var errApart = errors.New("amqp: it travelled in a batch whose consumers crashed")

// handleBatch settles the envelopes of a batch, and reports whether each is.
func (t *Transport) handleBatch(ctx context.Context, service transport.Service, d rabbit.Delivery) bool {
	parts, err := unpack(d)
	if err != nil {
		return t.settled(ctx, service, d, err)
	}
	apart := number(d, "x-delivery-count") >= takenApart
	var missing atomic.Bool
	var all sync.WaitGroup
	for _, part := range parts {
		t.slots[service] <- struct{}{}
		all.Go(func() {
			defer func() { <-t.slots[service] }()
			var ok bool
			if apart { // by the ladder, which has room when the queue has none
				ok = t.forward(ctx, "", t.names.retry(service, t.opts.Delays[0]), part, int(number(part, headerAttempts)), errApart, rabbit.Table{})
			} else {
				ok = t.handleOne(ctx, service, part)
			}
			if !ok {
				missing.Store(true)
			}
		})
	}
	all.Wait()
	return !missing.Load()
}
