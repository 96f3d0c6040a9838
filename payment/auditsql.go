package payment

import (
	"flashsale/audit"
	"fmt"
	"time"
)

// ProbeBound is how long a payment may be without an outcome before the audit says so.
const ProbeBound = 2 * time.Minute

// AuditSQL makes the store's own checks through one snapshot, in the SQL that both databases speak.
// ask runs a query that returns one row; overdue is the time, as the store keeps times, that no
// payment without an outcome may have been touched before.
func AuditSQL(ask func(query string, args []any, into ...any) error, overdue any) ([]audit.Check, error) {
	var orders, twice, moving, late int64
	err := ask(`SELECT count(*), coalesce(sum(CASE WHEN n > 1 THEN 1 ELSE 0 END), 0)
		FROM (SELECT order_id, count(*) AS n FROM payment WHERE state IN ('captured', 'refunding') GROUP BY order_id) paid`, nil, &orders, &twice)
	if err != nil {
		return nil, fmt.Errorf("payment: audit: %w", err)
	}
	err = ask(`SELECT count(*), coalesce(sum(CASE WHEN updated_at < $1 THEN 1 ELSE 0 END), 0)
		FROM payment WHERE state IN ('requested', 'charging', 'unknown', 'refunding')`, []any{overdue}, &moving, &late)
	if err != nil {
		return nil, fmt.Errorf("payment: audit: %w", err)
	}
	return []audit.Check{
		{Equation: 6, Name: "no order is paid twice", Figures: fmt.Sprintf("orders paid %d, paid twice %d", orders, twice), OK: twice == 0},
		{Equation: 7, Name: "no payment without an outcome for long", Figures: fmt.Sprintf("under way %d, overdue %d", moving, late), OK: late == 0},
	}, nil
}

// In reports whether the step may start from this state.
func (s Step) In(now State) bool {
	for _, from := range s.From {
		if from == now {
			return true
		}
	}
	return false
}
