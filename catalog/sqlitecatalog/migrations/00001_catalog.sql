-- +goose Up
CREATE TABLE product (
    id blob PRIMARY KEY, sku text NOT NULL UNIQUE, name text NOT NULL, description text NOT NULL, category text NOT NULL,
    price integer NOT NULL, currency text NOT NULL, created_at integer NOT NULL, search text NOT NULL
) WITHOUT ROWID;
CREATE INDEX product_category ON product (category, id);
CREATE TABLE sale (
    id blob PRIMARY KEY, name text NOT NULL, status text NOT NULL, opens_at integer NOT NULL, ends_at integer NOT NULL,
    per_user_limit integer NOT NULL, hold_us integer NOT NULL, revision integer NOT NULL, created_at integer NOT NULL
) WITHOUT ROWID;
CREATE TABLE sale_item (
    sale blob NOT NULL REFERENCES sale, sku text NOT NULL, product blob NOT NULL REFERENCES product, price integer NOT NULL, currency text NOT NULL, stock integer NOT NULL,
    PRIMARY KEY (sale, sku)
) WITHOUT ROWID;
CREATE INDEX sale_item_product ON sale_item (product);
CREATE TABLE addition (id blob PRIMARY KEY, at integer NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (
    id blob PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject blob NOT NULL,
    at integer NOT NULL, trace text NOT NULL, data blob NOT NULL,
    written_at integer NOT NULL, leased_until integer NOT NULL DEFAULT 0
);
CREATE INDEX outbox_written_at ON outbox (written_at);
-- +goose Down
DROP TABLE outbox; DROP TABLE addition; DROP TABLE sale_item; DROP TABLE sale; DROP TABLE product;
