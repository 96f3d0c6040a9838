-- +goose Up
CREATE TABLE orders (
    id blob PRIMARY KEY, user_id blob NOT NULL, sale blob NOT NULL, sku text NOT NULL, qty integer NOT NULL,
    price integer NOT NULL, total integer NOT NULL, currency text NOT NULL, state text NOT NULL, reason text NOT NULL,
    payment blob NOT NULL, cart blob NOT NULL, created_at integer NOT NULL, updated_at integer NOT NULL, expires_at integer NOT NULL
);
CREATE INDEX orders_user ON orders (user_id, created_at DESC, id DESC);
CREATE INDEX orders_open ON orders (expires_at) WHERE state = 'open';
CREATE TABLE cart (id blob PRIMARY KEY, user_id blob NOT NULL, checked_out integer NOT NULL DEFAULT 0, created_at integer NOT NULL) WITHOUT ROWID;
CREATE TABLE cart_item (
    cart blob NOT NULL REFERENCES cart, line integer NOT NULL, sale blob NOT NULL, sku text NOT NULL, qty integer NOT NULL,
    price integer NOT NULL, currency text NOT NULL, PRIMARY KEY (cart, line), UNIQUE (cart, sale, sku)
) WITHOUT ROWID;
CREATE TABLE outbox (
    id blob PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject blob NOT NULL,
    at integer NOT NULL, trace text NOT NULL, data blob NOT NULL,
    written_at integer NOT NULL, leased_until integer NOT NULL DEFAULT 0
);
CREATE INDEX outbox_written_at ON outbox (written_at);
-- +goose Down
DROP TABLE outbox; DROP TABLE cart_item; DROP TABLE cart; DROP TABLE orders;
