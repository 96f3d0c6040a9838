package order

import (
	"flashsale/audit"
	"fmt"
	"time"
)

// ExpiryBound is how long after its hold's end an order may still be open: the release is on its way.
const ExpiryBound = 2 * time.Minute

// AuditSQL makes the store's own checks through one snapshot, in the SQL that both databases speak.
// ask runs a query that returns one row; overdue is the time, as the store keeps times, that no
// open order's hold may have ended before.
func AuditSQL(ask func(query string, args []any, into ...any) error, overdue any) ([]audit.Check, error) {
	var n, wrong, open, late int64
	err := ask(`SELECT count(*), coalesce(sum(CASE WHEN total <> price * qty THEN 1 ELSE 0 END), 0) FROM orders`, nil, &n, &wrong)
	if err != nil {
		return nil, fmt.Errorf("order: audit: %w", err)
	}
	err = ask(`SELECT count(*), coalesce(sum(CASE WHEN expires_at < $1 THEN 1 ELSE 0 END), 0) FROM orders WHERE state = 'open'`,
		[]any{overdue}, &open, &late)
	if err != nil {
		return nil, fmt.Errorf("order: audit: %w", err)
	}
	return []audit.Check{
		{Equation: 6, Name: "an order's total = price × quantity", Figures: fmt.Sprintf("orders %d, wrong %d", n, wrong), OK: wrong == 0},
		{Equation: 7, Name: "no order open long after its hold", Figures: fmt.Sprintf("open %d, overdue %d", open, late), OK: late == 0},
	}, nil
}
