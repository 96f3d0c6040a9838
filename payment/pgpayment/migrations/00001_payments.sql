-- +goose Up
CREATE TABLE payment (
    id uuid PRIMARY KEY, order_id uuid NOT NULL, user_id uuid NOT NULL, amount bigint NOT NULL, currency text NOT NULL, method text NOT NULL,
    fingerprint bytea NOT NULL, state text NOT NULL, reason text NOT NULL, provider_ref text NOT NULL, trace text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX payment_order ON payment (order_id, id);
CREATE INDEX payment_moving ON payment (updated_at) WHERE state IN ('requested', 'charging', 'unknown', 'refunding');
-- The simulated provider's own table: no code of the payment service reads it.
CREATE TABLE sim_charge (
    id uuid PRIMARY KEY, ref text NOT NULL, amount bigint NOT NULL, currency text NOT NULL, captured boolean NOT NULL, refunded boolean NOT NULL, reason text NOT NULL
);
CREATE TABLE outbox (
    id uuid PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject uuid NOT NULL,
    at timestamptz NOT NULL, trace text NOT NULL, data bytea NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(), leased_until timestamptz
);
CREATE INDEX outbox_written_at ON outbox (written_at);
-- +goose Down
DROP TABLE outbox, sim_charge, payment;
