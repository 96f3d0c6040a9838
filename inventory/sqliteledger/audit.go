package sqliteledger

import (
	"context"
	"flashsale/audit"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/inventory"
	"fmt"
)

// Audit implements inventory.Auditor.
func (l *Ledger) Audit(ctx context.Context) ([]audit.Check, error) {
	tx, err := l.db.Read.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("ledger: audit: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	return inventory.AuditSQL(func(query string, args []any, into ...any) error {
		return tx.QueryRowContext(ctx, query, args...).Scan(into...)
	}, sqlite.Micros(l.now().Add(-inventory.ExpiryBound)))
}

// Statement implements inventory.Auditor.
func (l *Ledger) Statement(ctx context.Context, line func(inventory.Line) error) error {
	rows, err := l.db.Read.QueryContext(ctx, `SELECT id, user_id, state, qty, price, currency, payment FROM reservation ORDER BY id`)
	if err != nil {
		return fmt.Errorf("ledger: statement: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var v inventory.Line
		var rid, user, pay []byte
		if err := rows.Scan(&rid, &user, &v.State, &v.Quantity, &v.Total.Amount, &v.Total.Currency, &pay); err != nil {
			return fmt.Errorf("ledger: statement: %w", err)
		}
		v.Reservation, v.User, v.Payment = id.ID(rid), id.ID(user), id.ID(pay)
		v.Total.Amount *= int64(v.Quantity)
		if err := line(v); err != nil {
			return err
		}
	}
	return rows.Err()
}
