package inventory

import (
	"flashsale/audit"
	"fmt"
	"time"
)

// ExpiryBound is how long after its end a hold may still be waiting for the expirer.
const ExpiryBound = time.Minute

// AuditSQL makes the ledger's own checks through one snapshot: equations 1 to 5 and the ledger's
// part of 7. The tables and columns have the same names in every ledger, and the questions are in
// the SQL that both databases speak. ask runs a query that returns one row. overdue is the time,
// as the ledger stores times, that no hold may have ended before.
func AuditSQL(ask func(query string, args []any, into ...any) error, overdue any) ([]audit.Check, error) {
	var checks []audit.Check
	for _, c := range []struct {
		equation int
		name     string
		figures  string // of the numbers that the query returns
		query    string // the last number counts what is wrong
		args     []any
	}{
		{
			1, "held, sold ≥ 0 and held+sold ≤ granted", "buckets %d, granted %d, held %d, sold %d, wrong %d",
			`SELECT count(*), coalesce(sum(granted), 0), coalesce(sum(held), 0), coalesce(sum(sold), 0),
			coalesce(sum(CASE WHEN held < 0 OR sold < 0 OR held + sold > granted THEN 1 ELSE 0 END), 0) FROM bucket`, nil,
		},
		{
			1, "Σ granted = total", "items %d, total %d, granted %d, wrong %d",
			`SELECT count(*), coalesce(sum(i.total), 0), coalesce(sum(b.granted), 0), coalesce(sum(CASE WHEN i.total <> b.granted THEN 1 ELSE 0 END), 0)
			FROM sale_item i JOIN (SELECT sale, sku, sum(granted) AS granted FROM bucket GROUP BY sale, sku) b ON b.sale = i.sale AND b.sku = i.sku`, nil,
		},
		{
			2, "held = Σ legs held or paying; sold = Σ legs paid", "held %d, sold %d, legs held %d, legs paid %d, wrong %d",
			`SELECT coalesce(sum(b.held), 0), coalesce(sum(b.sold), 0), coalesce(sum(g.held), 0), coalesce(sum(g.sold), 0),
			coalesce(sum(CASE WHEN b.held <> coalesce(g.held, 0) OR b.sold <> coalesce(g.sold, 0) THEN 1 ELSE 0 END), 0)
			FROM bucket b LEFT JOIN (SELECT g.sale, g.sku, g.shard,
				sum(CASE WHEN r.state IN ('held', 'paying') THEN g.qty ELSE 0 END) AS held, sum(CASE WHEN r.state = 'paid' THEN g.qty ELSE 0 END) AS sold
				FROM leg g JOIN reservation r ON r.id = g.reservation WHERE g.outcome = 'committed' GROUP BY g.sale, g.sku, g.shard) g
			ON g.sale = b.sale AND g.sku = b.sku AND g.shard = b.shard`, nil,
		},
		{
			2, "Σ legs of a reservation = its quantity", "reservations %d, units %d, legs %d, wrong %d",
			`SELECT count(*), coalesce(sum(r.qty), 0), coalesce(sum(g.qty), 0), coalesce(sum(CASE WHEN r.qty <> coalesce(g.qty, 0) THEN 1 ELSE 0 END), 0)
			FROM reservation r LEFT JOIN (SELECT reservation, sum(qty) AS qty FROM leg WHERE outcome = 'committed' GROUP BY reservation) g ON g.reservation = r.id
			WHERE r.state <> 'refused'`, nil,
		},
		{
			3, "the journal replayed gives the bucket rows", "entries %d, granted %d, held %d, sold %d, wrong %d",
			`SELECT coalesce(sum(j.n), 0), coalesce(sum(j.granted), 0), coalesce(sum(j.held), 0), coalesce(sum(j.sold), 0),
			coalesce(sum(CASE WHEN b.granted <> coalesce(j.granted, 0) OR b.held <> coalesce(j.held, 0) OR b.sold <> coalesce(j.sold, 0) THEN 1 ELSE 0 END), 0)
			FROM bucket b LEFT JOIN (SELECT sale, sku, shard, count(*) AS n, sum(d_granted) AS granted, sum(d_held) AS held, sum(d_sold) AS sold
				FROM journal GROUP BY sale, sku, shard) j ON j.sale = b.sale AND j.sku = b.sku AND j.shard = b.shard`, nil,
		},
		{
			3, "credits are numbered without a gap", "credits %d, wrong %d",
			`SELECT coalesce(sum(c.n), 0), coalesce(sum(CASE WHEN coalesce(c.n, 0) <> b.credit_seq OR coalesce(c.last, 0) <> b.credit_seq THEN 1 ELSE 0 END), 0)
			FROM bucket b LEFT JOIN (SELECT sale, sku, shard, count(*) AS n, max(seq) AS last FROM credit GROUP BY sale, sku, shard) c
			ON c.sale = b.sale AND c.sku = b.sku AND c.shard = b.shard`, nil,
		},
		{
			4, "one state of the state machine per reservation; legs only where units were admitted", "reservations %d, wrong %d",
			`SELECT count(*), coalesce(sum(CASE WHEN r.state NOT IN ('held', 'paying', 'paid', 'cancelled', 'expired', 'declined', 'refunded', 'refused')
				OR (r.state = 'refused' AND EXISTS (SELECT 1 FROM leg g WHERE g.reservation = r.id AND g.outcome = 'committed')) THEN 1 ELSE 0 END), 0) FROM reservation r`, nil,
		},
		{
			5, "per shopper, bound units ≤ limit", "shoppers with units %d, wrong %d",
			`SELECT count(*), coalesce(sum(CASE WHEN s.per_user_limit > 0 AND u.qty > s.per_user_limit THEN 1 ELSE 0 END), 0)
			FROM (SELECT sale, sku, user_id, sum(qty) AS qty FROM reservation WHERE state IN ('held', 'paying', 'paid') GROUP BY sale, sku, user_id) u
			JOIN sale s ON s.id = u.sale`, nil,
		},
		{
			5, "allowances = Σ bound units", "allowances %d, wrong %d",
			`SELECT count(*), coalesce(sum(CASE WHEN a.qty <> coalesce(u.qty, 0) THEN 1 ELSE 0 END), 0) FROM allowance a
			LEFT JOIN (SELECT sale, sku, user_id, sum(qty) AS qty FROM reservation WHERE state IN ('held', 'paying', 'paid') GROUP BY sale, sku, user_id) u
			ON u.sale = a.sale AND u.sku = a.sku AND u.user_id = a.user_id`, nil,
		},
		{
			7, "nothing held past its expiry for long", "held %d, overdue %d",
			`SELECT count(*), coalesce(sum(CASE WHEN expires_at < $1 THEN 1 ELSE 0 END), 0) FROM reservation WHERE state = 'held'`,
			[]any{overdue},
		},
	} {
		n := 0
		for _, r := range c.figures {
			if r == '%' {
				n++
			}
		}
		numbers, into, shown := make([]int64, n), make([]any, n), make([]any, n)
		for i := range numbers {
			into[i] = &numbers[i]
		}
		if err := ask(c.query, c.args, into...); err != nil {
			return nil, fmt.Errorf("ledger: audit %d (%s): %w", c.equation, c.name, err)
		}
		for i, v := range numbers {
			shown[i] = v
		}
		checks = append(checks, audit.Check{Equation: c.equation, Name: c.name, Figures: fmt.Sprintf(c.figures, shown...), OK: numbers[n-1] == 0})
	}
	return checks, nil
}
