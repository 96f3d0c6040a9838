package metrics

import (
	"cmp"
	"context"
	"flashsale/inventory"
	"flashsale/transport"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lookMetrics are of what is stored. They are looked at in the background: a scrape waits for nobody.
type lookMetrics struct {
	up *prometheus.GaugeVec

	stock, oversold, items           *levels
	shardUp, available, pending      *levels
	epoch                            *levels
	outboxCount, outboxOldest        *levels
	waiting, retrying, dead, deadAge *levels
	queueOldest                      *levels
}

func newLook(m *Metrics) lookMetrics {
	return lookMetrics{
		up:           m.gauge("flashsale_look_up", "Whether the last look at what is stored got an answer; without one its gauges are absent.", "look"),
		stock:        m.levels("flashsale_stock_units", "Units of a sale item in the ledger, by state: left, held (being paid for included) or sold.", "sale", "sku", "state"),
		oversold:     m.levels("flashsale_oversold_units", "Units held and sold beyond what the ledger has granted, over all buckets. Never above 0."),
		items:        m.levels("flashsale_sale_items", "Sale items of sales that ended less than a day ago."),
		shardUp:      m.levels("flashsale_gate_shard_up", "Whether a shard of the gate answers.", "shard"),
		available:    m.levels("flashsale_gate_available_units", "Units that a shard of the gate has to hand out.", "shard"),
		pending:      m.levels("flashsale_gate_pending_units", "Units that a shard of the gate has handed out and that the ledger has not decided on yet.", "shard"),
		epoch:        m.levels("flashsale_gate_epoch", "Highest epoch among the buckets of a shard: it rises with each recovery.", "shard"),
		outboxCount:  m.levels("flashsale_outbox_events", "Events of a service that were said and not seen to arrive.", "service"),
		outboxOldest: m.levels("flashsale_outbox_oldest_seconds", "Age of the oldest of them; 0 when there is none.", "service"),
		waiting:      m.levels("flashsale_queue_waiting", "Events that wait in a service's queue.", "service"),
		retrying:     m.levels("flashsale_queue_retrying", "Events of a service that failed and wait to be tried again.", "service"),
		queueOldest:  m.levels("flashsale_queue_oldest_seconds", "How long a service's queue has not been empty, as far as this process has seen; 0 when it is empty.", "service"),
		dead:         m.levels("flashsale_dead_letters", "Dead letters of a service.", "service"),
		deadAge:      m.levels("flashsale_dead_letter_oldest_seconds", "Age of a service's oldest dead letter; 0 when there is none.", "service"),
	}
}

// probe is a look that is repeated.
type probe struct {
	name   string
	every  time.Duration
	look   func(context.Context) error
	forget func() // after a failure
}

const (
	lookBound = 5 * time.Second
	lookShare = 20               // a look takes at most one part in so many of the time
	longRest  = 30 * time.Second // but an operator must not wait longer for the next one, however slow the last was
)

// Run looks at what is stored until ctx ends.
func (m *Metrics) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, p := range m.probes {
		all.Go(func() { m.repeat(ctx, p) })
	}
	all.Wait()
	return nil
}

func (m *Metrics) repeat(ctx context.Context, p probe) {
	up := m.look.up.WithLabelValues(p.name)
	failing := false
	for {
		began := time.Now()
		bound, cancel := context.WithTimeout(ctx, lookBound)
		err := p.look(bound)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			up.Set(0)
			p.forget()
			if !failing {
				m.log.WarnContext(ctx, "what is stored cannot be looked at; its metrics are absent until it can", "look", p.name, "error", err)
			}
		default:
			up.Set(1)
			if failing {
				m.log.InfoContext(ctx, "what is stored can be looked at again", "look", p.name)
			}
		}
		failing = err != nil
		timer := time.NewTimer(max(p.every, min(lookShare*time.Since(began), longRest)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (m *Metrics) add(name string, every time.Duration, look func(context.Context) error, gauges ...*levels) {
	m.probes = append(m.probes, probe{name, every, look, func() {
		for _, g := range gauges {
			g.set(nil)
		}
	}})
}

// maxItems bounds the sale items that have series of their own: those of the newest sales. The others are added up.
const maxItems = 100

// Stock looks at the stock of every sale item, in the ledger and at the gate.
func (m *Metrics) Stock(books inventory.Books, gate inventory.Keeper, every time.Duration) {
	l := &m.look
	m.add("stock", every, func(ctx context.Context) error {
		rows, err := books.Buckets(ctx, nil)
		if err != nil {
			return err
		}
		ids := make([]inventory.BucketID, len(rows))
		for i, r := range rows {
			ids[i] = r.ID
		}
		at, err := gate.Levels(ctx, ids)
		if err != nil {
			return err
		}
		stock, items, over := stockLevels(rows)
		l.stock.set(stock)
		l.items.set([]level{{float64(items), nil}})
		l.oversold.set([]level{{float64(over), nil}})
		l.setShards(rows, at)
		return nil
	}, l.stock, l.items, l.oversold, l.available, l.pending, l.epoch)
	m.add("gate", every, func(ctx context.Context) error {
		ids := make([]inventory.BucketID, gate.Shards())
		for i := range ids {
			ids[i].Shard = i
		}
		at, err := gate.Levels(ctx, ids)
		if err != nil {
			return err
		}
		up := make([]level, len(at))
		for i, a := range at {
			up[i] = level{1, []string{shardLabel(i)}}
			if a.Away {
				up[i].value = 0
			}
		}
		l.shardUp.set(up)
		return nil
	}, l.shardUp)
}

// stockLevels adds buckets up to items, those of the newest sales by themselves and the others together.
func stockLevels(rows []inventory.Bucket) (stock []level, items int, oversold int64) {
	type sum struct{ left, held, sold int64 }
	sums := map[inventory.ItemID]*sum{}
	var order []inventory.ItemID
	for _, r := range rows {
		s := sums[r.ID.Item]
		if s == nil {
			s = &sum{}
			sums[r.ID.Item] = s
			order = append(order, r.ID.Item)
		}
		s.left, s.held, s.sold = s.left+r.Available(), s.held+r.Held, s.sold+r.Sold
		oversold += max(-r.Available(), 0)
	}
	slices.SortFunc(order, func(a, b inventory.ItemID) int { // ids begin with the time
		return cmp.Or(slices.Compare(b.Sale[:], a.Sale[:]), cmp.Compare(a.SKU, b.SKU))
	})
	rest := &sum{}
	for i, item := range order {
		if s := sums[item]; i >= maxItems {
			rest.left, rest.held, rest.sold = rest.left+s.left, rest.held+s.held, rest.sold+s.sold
		}
	}
	say := func(sale, sku string, s *sum) {
		for state, n := range map[string]int64{"left": s.left, "held": s.held, "sold": s.sold} {
			stock = append(stock, level{float64(n), []string{sale, sku, state}})
		}
	}
	for _, item := range order[:min(len(order), maxItems)] {
		say(item.Sale.String(), item.SKU, sums[item])
	}
	if len(order) > maxItems {
		say(other, other, rest)
	}
	return stock, len(order), oversold
}

func (l *lookMetrics) setShards(rows []inventory.Bucket, at []inventory.Level) {
	type sum struct{ available, pending, epoch int64 }
	sums := map[string]*sum{}
	for i, r := range rows {
		if at[i].Away {
			continue
		}
		shard := shardLabel(r.ID.Shard)
		s := sums[shard]
		if s == nil {
			s = &sum{}
			sums[shard] = s
		}
		s.available, s.pending, s.epoch = s.available+at[i].Available, s.pending+at[i].Pending, max(s.epoch, at[i].Epoch)
	}
	var available, pending, epoch []level
	for shard, s := range sums {
		available = append(available, level{float64(s.available), []string{shard}})
		pending = append(pending, level{float64(s.pending), []string{shard}})
		epoch = append(epoch, level{float64(s.epoch), []string{shard}})
	}
	l.available.set(available)
	l.pending.set(pending)
	l.epoch.set(epoch)
}

// Outboxes looks at what is unsent. The look is named after the services: another process sees other outboxes, and does not make
// up for what this one cannot see.
func (m *Metrics) Outboxes(boxes map[transport.Service]transport.Outbox, every time.Duration) {
	l := &m.look
	var names []string
	for _, service := range slices.Sorted(maps.Keys(boxes)) {
		names = append(names, string(service))
	}
	m.add("outboxes of "+strings.Join(names, "+"), every, func(ctx context.Context) error {
		var counts, oldest []level
		for service, box := range boxes {
			n, age, err := box.Backlog(ctx)
			if err != nil {
				return fmt.Errorf("outbox of %s: %w", service, err)
			}
			counts = append(counts, level{float64(n), []string{string(service)}})
			oldest = append(oldest, level{age.Seconds(), []string{string(service)}})
		}
		l.outboxCount.set(counts)
		l.outboxOldest.set(oldest)
		return nil
	}, l.outboxCount, l.outboxOldest)
}

// Queues is a transport that stores what is on its way.
type Queues interface {
	// Queues returns how much of each service's is stored.
	Queues(ctx context.Context) ([]transport.QueueLevel, error)
	transport.DeadLetters
}

// Queued looks at the queues and their dead letters. These are gone through, one by one, to find the oldest, so that is done
// rarely, and only when there are any.
func (m *Metrics) Queued(queues Queues, every, lettersEvery time.Duration) {
	l := &m.look
	since := map[transport.Service]time.Time{} // the queue is not empty
	m.add("queues", every, func(ctx context.Context) error {
		now := time.Now()
		all, err := queues.Queues(ctx)
		if err != nil {
			return err
		}
		var waiting, retrying, dead, oldest []level
		for _, q := range all {
			labels := []string{string(q.Service)}
			waiting = append(waiting, level{float64(q.Waiting), labels})
			retrying = append(retrying, level{float64(q.Retrying), labels})
			dead = append(dead, level{float64(q.Dead), labels})
			if q.Waiting == 0 {
				delete(since, q.Service)
			} else if since[q.Service].IsZero() {
				since[q.Service] = now
			}
			age := 0.0
			if at, ok := since[q.Service]; ok {
				age = now.Sub(at).Seconds()
			}
			oldest = append(oldest, level{age, labels})
		}
		l.waiting.set(waiting)
		l.retrying.set(retrying)
		l.dead.set(dead)
		l.queueOldest.set(oldest)
		return nil
	}, l.waiting, l.retrying, l.dead, l.queueOldest)
	m.add("dead letters", lettersEvery, func(ctx context.Context) error {
		all, err := queues.Queues(ctx)
		if err != nil {
			return err
		}
		var ages []level
		for _, q := range all {
			age := 0.0
			if q.Dead > 0 {
				page, err := queues.List(ctx, transport.Filter{Service: q.Service, Limit: 1})
				if err != nil {
					return err
				}
				for _, letter := range page.Letters {
					if !letter.Died.IsZero() {
						age = time.Since(letter.Died).Seconds()
					}
				}
			}
			ages = append(ages, level{age, []string{string(q.Service)}})
		}
		l.deadAge.set(ages)
		return nil
	}, l.deadAge)
}
