-- +goose Up
-- How far the sweeps have come.
CREATE TABLE place (sweep text PRIMARY KEY, upto bigint NOT NULL, leased_until timestamptz NOT NULL);
-- What the sweep reads: payments with an outcome, in the order in which they got it.
CREATE INDEX payment_decided ON payment (updated_at) WHERE state IN ('captured', 'declined', 'refunded');
-- +goose Down
DROP INDEX payment_decided;
DROP TABLE place;
