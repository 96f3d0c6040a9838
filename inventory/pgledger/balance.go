package pgledger

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"

	"github.com/jackc/pgx/v5"
)

// lockItem locks the buckets of an item on these shards, in order; nil is for all of them.
func lockItem(ctx context.Context, tx pgx.Tx, item inventory.ItemID, shards []int32) (map[int]inventory.Bucket, error) {
	rows, err := tx.Query(ctx, selectBuckets+` WHERE b.sale = $1 AND b.sku = $2 AND ($3::int[] IS NULL OR b.shard = ANY($3)) ORDER BY b.shard FOR UPDATE`,
		item.Sale, item.SKU, shards)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, scanBucket)
	out := make(map[int]inventory.Bucket, len(all))
	for _, b := range all {
		out[b.ID.Shard] = b
	}
	return out, err
}

// regrant queues the move of granted units from one locked row to another, with the receiver's credit.
func regrant(batch *pgx.Batch, w *writes, from, to inventory.Bucket, qty int64, cause id.ID) {
	batch.Queue(`UPDATE bucket SET granted = granted - $4 WHERE sale = $1 AND sku = $2 AND shard = $3`,
		from.ID.Item.Sale, from.ID.Item.SKU, from.ID.Shard, qty)
	batch.Queue(`UPDATE bucket SET granted = granted + $4, credit_seq = credit_seq + 1 WHERE sale = $1 AND sku = $2 AND shard = $3`,
		to.ID.Item.Sale, to.ID.Item.SKU, to.ID.Shard, qty)
	w.journal = append(w.journal,
		entry{bucket: from.ID, kind: "transfer", granted: -qty, cause: cause}, entry{bucket: to.ID, kind: "transfer", granted: qty, cause: cause})
	w.credits = append(w.credits, inventory.Credit{Bucket: to.ID, Seq: to.CreditSeq + 1, Qty: qty})
}

// Transfer implements inventory.Balance.
func (l *Ledger) Transfer(ctx context.Context, t inventory.Transfer) (inventory.LegOutcome, error) {
	var outcome inventory.LegOutcome
	err := l.run(ctx, "transfer", func(tx pgx.Tx) error {
		donor := t.Leg.Bucket
		rows, err := lockItem(ctx, tx, donor.Item, []int32{int32(donor.Shard), int32(t.To)})
		if err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `SELECT outcome FROM leg WHERE take = $1`, t.Leg.Take).Scan(&outcome)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err // known already, or unreadable
		}
		from, ok := rows[donor.Shard]
		to, there := rows[t.To]
		batch, w := &pgx.Batch{}, newWrites()
		outcome = inventory.Aborted
		if ok && there && donor.Shard != t.To && from.Epoch == t.Leg.Epoch && from.Available() >= int64(t.Leg.Qty) {
			outcome = inventory.Committed
			regrant(batch, w, from, to, int64(t.Leg.Qty), t.Leg.Take)
		}
		w.queue(batch)
		insertLegs(batch, []legRow{{Leg: t.Leg}}, outcome)
		return exec(ctx, tx, batch)
	})
	return outcome, err
}

// Evacuate implements inventory.Balance.
func (l *Ledger) Evacuate(ctx context.Context, from inventory.BucketID, to []int) ([]inventory.BucketID, error) {
	var credited []inventory.BucketID
	err := l.run(ctx, "evacuate", func(tx pgx.Tx) error {
		credited = nil
		rows, err := lockItem(ctx, tx, from.Item, nil)
		if err != nil {
			return err
		}
		gone, ok := rows[from.Shard]
		if !ok {
			return inventory.ErrUnknownSale
		}
		var heirs []inventory.Bucket
		for _, shard := range to {
			if b, ok := rows[shard]; ok && shard != from.Shard {
				heirs = append(heirs, b)
			}
		}
		batch, w := &pgx.Batch{}, newWrites()
		batch.Queue(`UPDATE bucket SET epoch = epoch + 1 WHERE sale = $1 AND sku = $2 AND shard = $3`, from.Item.Sale, from.Item.SKU, from.Shard)
		if len(heirs) > 0 {
			for i, qty := range inventory.Split(gone.Available(), len(heirs)) {
				if qty > 0 {
					regrant(batch, w, gone, heirs[i], qty, from.Item.Sale)
					credited = append(credited, heirs[i].ID)
				}
			}
		}
		w.queue(batch)
		return exec(ctx, tx, batch)
	})
	if errors.Is(err, inventory.ErrUnknownSale) {
		err = inventory.ErrUnknownSale
	}
	return credited, err
}

// Spread implements inventory.Balance.
func (l *Ledger) Spread(ctx context.Context, shards int) error {
	return l.run(ctx, "spread", func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO bucket (sale, sku, shard, epoch, granted)
			SELECT i.sale, i.sku, n, 1, 0 FROM sale_item i CROSS JOIN generate_series(0, $1 - 1) AS n
			WHERE NOT EXISTS (SELECT 1 FROM bucket b WHERE b.sale = i.sale AND b.sku = i.sku AND b.shard = n)
			ON CONFLICT DO NOTHING`, shards)
		return err
	})
}
