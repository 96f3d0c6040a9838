-- +goose Up
CREATE TABLE product (
    id uuid PRIMARY KEY, sku text COLLATE "C" NOT NULL CONSTRAINT product_sku UNIQUE, name text NOT NULL, description text NOT NULL, category text NOT NULL,
    price bigint NOT NULL, currency text NOT NULL, created_at timestamptz NOT NULL, search text NOT NULL
);
CREATE INDEX product_category ON product (category, id);
CREATE TABLE sale (
    id uuid PRIMARY KEY, name text NOT NULL, status text NOT NULL, opens_at timestamptz NOT NULL, ends_at timestamptz NOT NULL,
    per_user_limit integer NOT NULL, hold_us bigint NOT NULL, revision bigint NOT NULL, created_at timestamptz NOT NULL
);
CREATE TABLE sale_item (
    sale uuid NOT NULL REFERENCES sale, sku text COLLATE "C" NOT NULL, product uuid NOT NULL REFERENCES product, price bigint NOT NULL, currency text NOT NULL, stock bigint NOT NULL,
    PRIMARY KEY (sale, sku)
);
CREATE INDEX sale_item_product ON sale_item (product);
CREATE TABLE addition (id uuid PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE outbox (
    id uuid PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject uuid NOT NULL,
    at timestamptz NOT NULL, trace text NOT NULL, data bytea NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(), leased_until timestamptz
);
CREATE INDEX outbox_written_at ON outbox (written_at);
-- +goose Down
DROP TABLE outbox, addition, sale_item, sale, product;
