-- +goose Up
CREATE TABLE payment (
    id blob PRIMARY KEY, order_id blob NOT NULL, user_id blob NOT NULL, amount integer NOT NULL, currency text NOT NULL, method text NOT NULL,
    fingerprint blob NOT NULL, state text NOT NULL, reason text NOT NULL, provider_ref text NOT NULL, trace text NOT NULL,
    created_at integer NOT NULL, updated_at integer NOT NULL
) WITHOUT ROWID;
CREATE INDEX payment_order ON payment (order_id, id);
CREATE INDEX payment_moving ON payment (updated_at) WHERE state IN ('requested', 'charging', 'unknown', 'refunding');
-- The simulated provider's own table: no code of the payment service reads it.
CREATE TABLE sim_charge (
    id blob PRIMARY KEY, ref text NOT NULL, amount integer NOT NULL, currency text NOT NULL, captured integer NOT NULL, refunded integer NOT NULL, reason text NOT NULL
) WITHOUT ROWID;
CREATE TABLE outbox (
    id blob PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject blob NOT NULL,
    at integer NOT NULL, trace text NOT NULL, data blob NOT NULL,
    written_at integer NOT NULL, leased_until integer NOT NULL DEFAULT 0
);
CREATE INDEX outbox_written_at ON outbox (written_at);
-- +goose Down
DROP TABLE outbox; DROP TABLE sim_charge; DROP TABLE payment;
