-- +goose Up
CREATE TABLE orders (
    id uuid PRIMARY KEY, user_id uuid NOT NULL, sale uuid NOT NULL, sku text NOT NULL, qty integer NOT NULL,
    price bigint NOT NULL, total bigint NOT NULL, currency text NOT NULL, state text NOT NULL, reason text NOT NULL,
    payment uuid NOT NULL, cart uuid NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, expires_at timestamptz NOT NULL
);
CREATE INDEX orders_user ON orders (user_id, created_at DESC, id DESC);
CREATE INDEX orders_open ON orders (expires_at) WHERE state = 'open';
CREATE TABLE cart (id uuid PRIMARY KEY, user_id uuid NOT NULL, checked_out boolean NOT NULL DEFAULT false, created_at timestamptz NOT NULL);
CREATE TABLE cart_item (
    cart uuid NOT NULL REFERENCES cart, line integer NOT NULL, sale uuid NOT NULL, sku text NOT NULL, qty integer NOT NULL,
    price bigint NOT NULL, currency text NOT NULL, PRIMARY KEY (cart, line), UNIQUE (cart, sale, sku)
);
CREATE TABLE outbox (
    id uuid PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject uuid NOT NULL,
    at timestamptz NOT NULL, trace text NOT NULL, data bytea NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(), leased_until timestamptz
);
CREATE INDEX outbox_written_at ON outbox (written_at);
-- +goose Down
DROP TABLE outbox, cart_item, cart, orders;
