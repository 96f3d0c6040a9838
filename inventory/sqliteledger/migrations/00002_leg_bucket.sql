-- +goose Up
-- A bucket that is opened anew reads who has units in it, and no other bucket's legs.
CREATE INDEX leg_bucket ON leg (sale, sku, shard) WHERE outcome = 'committed';
-- +goose Down
DROP INDEX leg_bucket;
