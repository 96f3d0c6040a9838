package main

import (
	"context"
	"flashsale/inventory/redisstock"
	"flashsale/transport"
	"flashsale/transport/amqp"
	"flashsale/transport/httptransport"
	"flashsale/transport/inproc"
)

// openRedis opens the gate on the Redis servers.
func (a *app) openRedis(ctx context.Context) error {
	g, err := redisstock.Open(ctx, a.cfg.RedisURLs, redisstock.Options{})
	if err != nil {
		return err
	}
	a.gate = g
	a.closers = append(a.closers, g.Close)
	return nil
}

// openServers chooses the transport outside the embedded default: calls for what runs here, HTTP for
// what runs elsewhere, or RabbitMQ. Questions are calls in every wiring.
func (a *app) openServers() {
	if a.cfg.InternalListen != "" {
		peers := map[transport.Service]string{}
		for role, url := range a.cfg.Peers {
			peers[transport.Service(role)] = url
		}
		a.wires.http = httptransport.New(httptransport.Options{
			Listen: a.cfg.InternalListen, Token: a.cfg.InternalToken, Peers: peers, Log: a.log,
			Calls: 512 + 2*a.cfg.MaxPaying, // a payment is two calls at a time, to have the hold moved and paid, and one back; the rest is for others
		})
	}
	if a.cfg.AMQPURL != "" { // in the synchronous wiring too: what still waits there was accepted
		a.wires.queue = amqp.New(amqp.Options{URL: a.cfg.AMQPURL, Log: a.log})
	}
	a.wires.events = inproc.New()
	if a.wires.http != nil && a.cfg.Mode == Sync {
		a.wires.called = true
		a.wires.events = newSplit(a.wires.events, a.wires.http)
	}
}
