package main

import "fmt"

func boards() map[string]board {
	return map[string]board{
		"resources.json": resources(), "sale.json": sale(), "services.json": services(), "business.json": business(), "wirings.json": wirings(),
	}
}

func both() variable {
	return variable{name: "wiring", label: "wiring", values: []string{"sync", "async"}}
}

// The parts that queries are made of. What is counted is added up over processes; what is looked at is
// the same in all of them, so the highest counts.
const (
	chosen = `wiring=~"$wiring"`
	window = `[$__rate_interval]`
)

func rate(by, metric, labels string) string {
	return fmt.Sprintf(`sum by (%s) (rate(%s{%s}%s))`, by, metric, labels, window)
}

func quantile(q, by, metric, labels string) string {
	if by != "" {
		by = ", " + by
	}
	return fmt.Sprintf(`histogram_quantile(%s, sum by (le%s) (rate(%s_bucket{%s}%s)))`, q, by, metric, labels, window)
}

// quantiles are the middle, the slow and the slowest of a hundred.
func quantiles(metric, labels string) []query {
	return []query{
		{prom: quantile("0.5", "", metric, labels), legend: "half"},
		{prom: quantile("0.95", "", metric, labels), legend: "95 %"},
		{prom: quantile("0.99", "", metric, labels), legend: "99 %"},
	}
}

func one(prom, legend string) []query { return []query{{prom: prom, legend: legend}} }

func now(prom string) []query { return []query{{prom: prom, instant: true}} }

// written is how old a window must be to be added up, in nanoseconds: a collector writes every 5 s, and before all have written the
// newest sum lacks some of them.
const written = "7000000000"

// process asks the collector's samples of one wiring: a line a process, or with sum all added up.
func process(field, wiring string, sum bool) []query {
	q := fmt.Sprintf(`from(bucket: v.defaultBucket)
  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
  |> filter(fn: (r) => r._measurement == "process" and r._field == "%s" and r.wiring == "%s")
  |> aggregateWindow(every: v.windowPeriod, fn: mean, createEmpty: false)
`, field, wiring)
	if sum {
		q += "  |> filter(fn: (r) => int(v: r._time) <= int(v: now()) - " + written + ")\n" +
			"  |> group(columns: [\"_time\", \"wiring\"])\n  |> sum()\n  |> group(columns: [\"wiring\"])\n  |> sort(columns: [\"_time\"])"
	} else {
		q += "  |> keep(columns: [\"_time\", \"_value\", \"service\", \"instance\"])\n  |> group(columns: [\"service\", \"instance\"])"
	}
	return []query{{flux: q}}
}

func host(field string) []query {
	return []query{{flux: fmt.Sprintf(`from(bucket: v.defaultBucket)
  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
  |> filter(fn: (r) => r._measurement == "host" and r._field == "%s")
  |> aggregateWindow(every: v.windowPeriod, fn: mean, createEmpty: false)
  |> group(columns: ["_time"])
  |> max()
  |> group()
  |> sort(columns: ["_time"])`, field)}}
}

func resources() board {
	b := board{
		uid: "flashsale-resources", title: "Resources", from: "now-15m", refresh: "5s",
		about: "What the services cost: CPU and memory of every process, and added up; the synchronous wiring on the left, the asynchronous on the right.",
	}
	side := func(title, about, unit, field string, sum bool) {
		for _, wiring := range []string{"sync", "async"} {
			b.panels = append(b.panels, panel{title: title + ", " + wiring, about: about, unit: unit, wide: 12, stack: !sum && unit != "percent", ask: process(field, wiring, sum)})
		}
	}
	b.panels = append(b.panels, panel{row: "Added up"})
	side("CPU of all services", "Cores in use.", "suffix: cores", "cpu_cores", true)
	side("Memory of all services", "Resident.", "bytes", "memory_bytes", true)
	b.panels = append(b.panels, panel{row: "Per service"})
	side("CPU per service", "Cores in use.", "suffix: cores", "cpu_cores", false)
	side("Memory per service", "Resident.", "bytes", "memory_bytes", false)
	side("CPU of the limit", "Of what the process may use: its container's limit, or the machine. Near 100 it is what holds the sale up.", "percent", "cpu_percent", false)
	side("Memory of the limit", "Near 100 the system ends the process.", "percent", "memory_percent", false)
	side("Goroutines", "They grow with the requests that wait.", "short", "goroutines", false)
	b.panels = append(b.panels, panel{row: "The machine"},
		panel{title: "CPU of the machine", unit: "percent", ask: host("cpu_percent")},
		panel{title: "Memory of the machine", unit: "percent", ask: host("memory_percent")},
		panel{title: "Load of the machine", unit: "short", ask: host("load1")})
	return b
}

func sale() board {
	sku := chosen + `,sku=~"$sku"`
	stock := func(state string) string {
		return fmt.Sprintf(`sum(max by (wiring, sale, sku) (flashsale_stock_units{%s,state="%s"}))`, sku, state)
	}
	return board{
		uid: "flashsale-sale", title: "Sale", from: "now-5m", refresh: "1s",
		about:     "The opening minute: how fast the stock goes, who gets it, who is told that there is none, and how long everybody waits.",
		variables: []variable{both(), {name: "sku", label: "item", query: "label_values(flashsale_stock_units, sku)"}},
		panels: []panel{
			{title: "Left", unit: "short", kind: "stat", wide: 4, high: 4, ask: now(stock("left"))},
			{title: "Held", about: "Being paid for included.", unit: "short", kind: "stat", wide: 4, high: 4, ask: now(stock("held"))},
			{title: "Sold", unit: "short", kind: "stat", wide: 4, high: 4, ask: now(stock("sold"))},
			{title: "Oversold", about: "Never above 0.", unit: "short", kind: "stat", wide: 4, high: 4, ask: now(`max(flashsale_oversold_units{` + chosen + `})`)},
			{title: "Held out", about: "Shoppers told that everything is held, in the time shown.", unit: "short", kind: "stat", wide: 4, high: 4, ask: now(`sum(increase(flashsale_reservations_total{` + chosen + `,outcome="held_out"}[$__range]))`)},
			{title: "Sold out", about: "Shoppers told that everything is sold, in the time shown.", unit: "short", kind: "stat", wide: 4, high: 4, ask: now(`sum(increase(flashsale_reservations_total{` + chosen + `,outcome="sold_out"}[$__range]))`)},

			{title: "Stock", about: "What is left burns down into what is held, and that into what is sold. Steps back up are holds that ended.", unit: "short", wide: 16, high: 10, stack: true, ask: one(`sum by (wiring, state) (max by (wiring, sale, sku, state) (flashsale_stock_units{`+sku+`}))`, "{{wiring}} {{state}}")},
			{title: "Time to decision", about: "From the take at the gate to the ledger's word.", unit: "s", high: 10, ask: quantiles("flashsale_decision_seconds", chosen)},

			{title: "Takes at the gate", about: "Per bucket asked: a shopper may ask several. Short is a bucket without units.", unit: "ops", stack: true, ask: one(rate("outcome", "flashsale_gate_takes_total", chosen), "{{outcome}}")},
			{title: "Answers to shoppers", unit: "reqps", stack: true, ask: one(rate("outcome", "flashsale_reservations_total", chosen), "{{outcome}}")},
			{title: "Sold", about: "Units in confirmed orders.", unit: "ops", ask: one(rate("sku", "flashsale_units_sold_total", sku), "{{sku}}")},

			{title: "Waiting for the ledger", about: "Units taken at the gate and not decided on.", unit: "short", ask: one(`sum by (wiring) (max by (wiring, shard) (flashsale_gate_pending_units{`+chosen+`}))`, "{{wiring}}")},
			{title: "Requests under way", unit: "short", ask: one(`sum by (wiring) (flashsale_http_requests_in_flight{`+chosen+`})`, "{{wiring}}")},
			{title: "Waiting in queues", about: "Of the asynchronous wiring; the synchronous one has none.", unit: "short", stack: true, ask: one(`max by (service) (flashsale_queue_waiting)`, "{{service}}")},

			{title: "Units per shard", about: "They run dry at different times; the keeper evens them out.", unit: "short", stack: true, ask: one(`max by (wiring, shard) (flashsale_gate_available_units{`+chosen+`})`, "{{wiring}} {{shard}}")},
			{title: "Claims decided", unit: "ops", stack: true, ask: one(rate("outcome", "flashsale_ledger_decisions_total", chosen), "{{outcome}}")},
			{title: "Claims per transaction", about: "Grows with the crowd: what keeps the ledger fast.", unit: "short", ask: one(fmt.Sprintf(`sum by (wiring, group) (rate(flashsale_group_size_sum{%s}%s)) / sum by (wiring, group) (rate(flashsale_group_size_count{%s}%s))`, chosen, window, chosen, window), "{{wiring}} {{group}}")},
		},
	}
}

func services() board {
	return board{
		uid: "flashsale-services", title: "Services", from: "now-30m", refresh: "5s",
		about:     "Is every part well: how much it does, how fast, how often it fails, and what waits before it.",
		variables: []variable{both()},
		panels: []panel{
			{row: "Requests"},
			{title: "Requests", unit: "reqps", stack: true, ask: one(rate("route", "flashsale_http_request_seconds_count", chosen), "{{route}}")},
			{title: "Failed requests", about: "Share answered with 5xx. 503 is shed load.", unit: "percentunit", ask: one(fmt.Sprintf(`(sum(rate(flashsale_http_requests_total{%s,code=~"5.."}%s)) or vector(0)) / sum(rate(flashsale_http_requests_total{%s}%s))`, chosen, window, chosen, window), "5xx")},
			{title: "Latency", unit: "s", ask: quantiles("flashsale_http_request_seconds", chosen)},
			{title: "Latency per route, 99 %", unit: "s", wide: 12, ask: one(quantile("0.99", "method, route", "flashsale_http_request_seconds", chosen), "{{method}} {{route}}")},
			{title: "Answers", unit: "reqps", wide: 12, stack: true, ask: one(rate("code", "flashsale_http_requests_total", chosen), "{{code}}")},

			{row: "Events"},
			{title: "Events handled", unit: "ops", stack: true, ask: one(rate("service, outcome", "flashsale_events_handled_total", chosen), "{{service}} {{outcome}}")},
			{title: "Time per event, 99 %", about: "A service's own part.", unit: "s", ask: one(quantile("0.99", "service, event", "flashsale_event_seconds", chosen), "{{service}} {{event}}")},
			{title: "Queue lag, 99 %", about: "From an event being said to a service beginning with it.", unit: "s", ask: one(quantile("0.99", "service", "flashsale_event_age_seconds", chosen), "{{service}}")},
			{title: "Waiting in queues", unit: "short", wide: 6, stack: true, ask: one(`max by (service) (flashsale_queue_waiting)`, "{{service}}")},
			{title: "To be tried again", unit: "short", wide: 6, stack: true, ask: one(`max by (service) (flashsale_queue_retrying)`, "{{service}}")},
			{title: "Dead letters", about: "flashsale dlq list says why.", unit: "short", wide: 6, stack: true, ask: one(`max by (service) (flashsale_dead_letters)`, "{{service}}")},
			{title: "Oldest in the outbox", about: "Events that were said and not seen to arrive; the relay repeats them after 2 s.", unit: "s", wide: 6, ask: one(`max by (wiring, service) (flashsale_outbox_oldest_seconds{`+chosen+`})`, "{{wiring}} {{service}}")},

			{row: "Databases and cache"},
			{title: "Query time, 99 %", unit: "s", ask: one(quantile("0.99", "database", "flashsale_database_query_seconds", chosen), "{{database}}")},
			{title: "Connections held, 99 %", about: "The ledger's is held for one transaction of a group.", unit: "s", ask: one(quantile("0.99", "database", "flashsale_database_hold_seconds", chosen), "{{database}}")},
			{title: "Waiting for a connection, 99 %", unit: "s", ask: one(quantile("0.99", "database", "flashsale_database_wait_seconds", chosen), "{{database}}")},
			{title: "Connections in use", unit: "short", ask: one(`sum by (wiring, database) (flashsale_database_connections{`+chosen+`,state="in_use"})`, "{{wiring}} {{database}}")},
			{title: "Ledger calls, 99 %", unit: "s", ask: one(quantile("0.99", "call", "flashsale_ledger_call_seconds", chosen), "{{call}}")},
			{title: "Cache hits", about: "Of the catalogue.", unit: "percentunit", ask: one(fmt.Sprintf(`sum by (wiring) (rate(flashsale_cache_reads_total{%s,outcome="hit"}%s)) / sum by (wiring) (rate(flashsale_cache_reads_total{%s}%s))`, chosen, window, chosen, window), "{{wiring}}")},

			{row: "Gate and calls"},
			{title: "Takes, 99 %", unit: "s", ask: one(quantile("0.99", "", "flashsale_gate_take_seconds", chosen), "take")},
			{title: "Recoveries", about: "Buckets opened anew, by reason. Outside the start of a sale it is a shard that lost its memory.", unit: "short", ask: one(`sum by (reason) (increase(flashsale_gate_recoveries_total{`+chosen+`}[$__rate_interval]))`, "{{reason}}")},
			{title: "Waiting for a group, 99 %", unit: "s", ask: one(quantile("0.99", "group", "flashsale_group_wait_seconds", chosen), "{{group}}")},
			{title: "Calls to services under way", unit: "short", ask: one(`sum by (wiring, to) (flashsale_peer_calls_in_flight{`+chosen+`})`, "{{wiring}} {{to}}")},
			{title: "Circuit breakers", about: "0 closed, 0.5 half open, 1 open: nothing is sent there.", unit: "short", ask: one(`max by (wiring, to) (flashsale_peer_breaker_open{`+chosen+`})`, "{{wiring}} {{to}}")},
			{title: "Payment provider, 99 %", unit: "s", ask: one(quantile("0.99", "call", "flashsale_provider_seconds", chosen), "{{call}}")},
		},
	}
}

func business() board {
	const sold = chosen + `,state="sold"`
	money := func(metric, over string) string {
		return fmt.Sprintf(`sum by (currency) (increase(%s{%s}[%s])) / 100`, metric, chosen, over)
	}
	return board{
		uid: "flashsale-business", title: "Business", from: "now-6h", refresh: "30s",
		about:     "What the sale has earned. Money is in major units of currencies that have cents.",
		variables: []variable{both()},
		panels: []panel{
			{title: "Orders", about: "Confirmed, in the time shown.", unit: "short", kind: "stat", wide: 6, high: 4, ask: now(`sum(increase(flashsale_orders_total{` + chosen + `,state="confirmed"}[$__range]))`)},
			{title: "Revenue", about: "Of confirmed orders, in the time shown.", unit: "short", kind: "stat", wide: 6, high: 4, ask: []query{{prom: money("flashsale_revenue_minor_units_total", "$__range"), legend: "{{currency}}", instant: true}}},
			{title: "Order value", about: "On average, in the time shown.", unit: "short", kind: "stat", wide: 6, high: 4, ask: []query{{prom: fmt.Sprintf(`sum by (currency) (increase(flashsale_order_value_minor_units_sum{%s}[$__range])) / sum by (currency) (increase(flashsale_order_value_minor_units_count{%s}[$__range])) / 100`, chosen, chosen), legend: "{{currency}}", instant: true}}},
			{title: "Payment success", about: "Captured, of those with an outcome, in the time shown.", unit: "percentunit", kind: "stat", wide: 6, high: 4, ask: now(`sum(increase(flashsale_payments_total{` + chosen + `,state="captured"}[$__range])) / sum(increase(flashsale_payments_total{` + chosen + `,state=~"captured|declined"}[$__range]))`)},

			{title: "Orders per hour", unit: "short", wide: 12, stack: true, ask: one(`sum by (state) (increase(flashsale_orders_total{`+chosen+`}[1h]))`, "{{state}}")},
			{title: "Revenue per hour", unit: "short", wide: 12, ask: one(money("flashsale_revenue_minor_units_total", "1h"), "{{currency}}")},
			// By the ledger: an order service's counter of a product begins with the product's first order, and what Prometheus first
			// sees of a counter is no increase.
			{title: "Top products", about: "Units sold in the time shown, by the ledger.", kind: "bargauge", unit: "short", ask: []query{{prom: `topk(10, sum by (sku) (max by (wiring, sale, sku) (max_over_time(flashsale_stock_units{` + sold + `}[$__range])) - min by (wiring, sale, sku) (min_over_time(flashsale_stock_units{` + sold + `}[$__range]))))`, legend: "{{sku}}", instant: true}}},
			{title: "Value of an order", about: "In minor units (cents).", unit: "short", ask: []query{
				{prom: quantile("0.5", "currency", "flashsale_order_value_minor_units", chosen), legend: "half {{currency}}"},
				{prom: quantile("0.95", "currency", "flashsale_order_value_minor_units", chosen), legend: "95 % {{currency}}"},
			}},
			{title: "Payments", unit: "ops", stack: true, ask: one(rate("state", "flashsale_payments_total", chosen), "{{state}}")},
			{title: "Payment success", about: "Captured, of those with an outcome.", unit: "percentunit", ask: one(fmt.Sprintf(`sum by (wiring) (rate(flashsale_payments_total{%s,state="captured"}%s)) / sum by (wiring) (rate(flashsale_payments_total{%s,state=~"captured|declined"}%s))`, chosen, window, chosen, window), "{{wiring}}")},
			{title: "What became of holds", about: "Captured is a sale; expired, declined and cancelled go back on sale.", unit: "ops", stack: true, ask: one(rate("move", "flashsale_ledger_moves_total", chosen+`,outcome="applied"`), "{{move}}")},
			{title: "Refunds per hour", unit: "short", ask: one(`sum(increase(flashsale_orders_total{`+chosen+`,state="refunded"}[1h]))`, "refunded")},
		},
	}
}

func wirings() board {
	name := "{{wiring}}"
	each := func(q string) string { return rate("wiring", q, "") }
	memory := process("memory_bytes", "sync", true)
	memory = append(memory, process("memory_bytes", "async", true)...)
	cpu := process("cpu_cores", "sync", true)
	cpu = append(cpu, process("cpu_cores", "async", true)...)
	return board{
		uid: "flashsale-wirings", title: "Wirings compared", from: "now-15m", refresh: "5s",
		about: "The same sale over calls (sync) and over events (async): what shoppers feel, what gets done, and what it costs.",
		panels: []panel{
			{row: "What shoppers feel"},
			{title: "Reserving, 99 %", about: "Until the answer: the decision in the synchronous wiring, accepted in the asynchronous.", unit: "s", ask: one(quantile("0.99", "wiring", "flashsale_http_request_seconds", `route="/api/v1/reservations",method="POST"`), name)},
			{title: "Time to decision, half", about: "From the take at the gate to the ledger's word: comparable between the wirings.", unit: "s", ask: one(quantile("0.5", "wiring", "flashsale_decision_seconds", ""), name)},
			{title: "Time to decision, 99 %", unit: "s", ask: one(quantile("0.99", "wiring", "flashsale_decision_seconds", ""), name)},
			{title: "Failed requests", about: "Share answered with 5xx.", unit: "percentunit", wide: 12, ask: one(fmt.Sprintf(`(sum by (wiring) (rate(flashsale_http_requests_total{code=~"5.."}%s)) or sum by (wiring) (rate(flashsale_http_requests_total%s)) * 0) / sum by (wiring) (rate(flashsale_http_requests_total%s))`, window, window, window), name)},
			{title: "Paying, 99 %", unit: "s", wide: 12, ask: one(quantile("0.99", "wiring", "flashsale_http_request_seconds", `route="/api/v1/orders/:id/payments",method="POST"`), name)},

			{row: "What gets done"},
			{title: "Requests", unit: "reqps", ask: one(each("flashsale_http_request_seconds_count"), name)},
			{title: "Reservations held", unit: "ops", ask: one(rate("wiring", "flashsale_ledger_decisions_total", `outcome="held"`), name)},
			{title: "Orders confirmed", unit: "ops", ask: one(rate("wiring", "flashsale_orders_total", `state="confirmed"`), name)},
			{title: "Left", about: "Which one sells out first.", unit: "short", ask: one(`sum by (wiring) (max by (wiring, sale, sku) (flashsale_stock_units{state="left"}))`, name)},
			{title: "Claims per transaction", unit: "short", ask: one(fmt.Sprintf(`sum by (wiring) (rate(flashsale_group_size_sum{group="ledger_commits"}%s)) / sum by (wiring) (rate(flashsale_group_size_count{group="ledger_commits"}%s))`, window, window), name)},
			{title: "Lag of events, 99 %", unit: "s", ask: one(quantile("0.99", "wiring", "flashsale_event_age_seconds", ""), name)},

			{row: "What it costs"},
			{title: "CPU", about: "All services of a wiring.", unit: "suffix: cores", wide: 12, ask: cpu},
			{title: "Memory", about: "All services of a wiring.", unit: "bytes", wide: 12, ask: memory},
		},
	}
}
