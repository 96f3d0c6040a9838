-- +goose Up
CREATE TABLE sale (
    id uuid PRIMARY KEY, status text NOT NULL, opens_at timestamptz NOT NULL, ends_at timestamptz NOT NULL,
    per_user_limit integer NOT NULL, hold_us bigint NOT NULL, revision bigint NOT NULL, ended_at timestamptz
);
CREATE TABLE sale_item (
    sale uuid NOT NULL REFERENCES sale, sku text COLLATE "C" NOT NULL, price bigint NOT NULL, currency text NOT NULL, total bigint NOT NULL,
    PRIMARY KEY (sale, sku)
);
-- The hot rows: room on the page keeps their updates in place.
CREATE TABLE bucket (
    sale uuid NOT NULL, sku text COLLATE "C" NOT NULL, shard integer NOT NULL, epoch bigint NOT NULL,
    granted bigint NOT NULL, held bigint NOT NULL DEFAULT 0, sold bigint NOT NULL DEFAULT 0, credit_seq bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (sale, sku, shard), FOREIGN KEY (sale, sku) REFERENCES sale_item,
    CHECK (held >= 0 AND sold >= 0 AND held + sold <= granted)
) WITH (fillfactor = 50);
CREATE TABLE reservation (
    id uuid PRIMARY KEY, user_id uuid NOT NULL, sale uuid NOT NULL, sku text COLLATE "C" NOT NULL, qty integer NOT NULL,
    price bigint NOT NULL, currency text NOT NULL, state text NOT NULL, reason text NOT NULL, payment uuid NOT NULL, cart uuid NOT NULL,
    fingerprint bytea NOT NULL, created_at timestamptz NOT NULL, expires_at timestamptz NOT NULL
);
CREATE INDEX reservation_due ON reservation (expires_at) WHERE state = 'held';
CREATE TABLE leg (
    take uuid PRIMARY KEY, reservation uuid, sale uuid NOT NULL, sku text COLLATE "C" NOT NULL, shard integer NOT NULL,
    epoch bigint NOT NULL, qty integer NOT NULL, outcome text NOT NULL
);
CREATE INDEX leg_reservation ON leg (reservation);
CREATE TABLE allowance (
    sale uuid NOT NULL, sku text COLLATE "C" NOT NULL, user_id uuid NOT NULL, qty integer NOT NULL CHECK (qty >= 0), PRIMARY KEY (sale, sku, user_id)
);
CREATE TABLE credit (
    sale uuid NOT NULL, sku text COLLATE "C" NOT NULL, shard integer NOT NULL, seq bigint NOT NULL, qty bigint NOT NULL, user_id uuid NOT NULL,
    PRIMARY KEY (sale, sku, shard, seq)
);
CREATE TABLE journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sale uuid NOT NULL, sku text COLLATE "C" NOT NULL, shard integer NOT NULL, kind text NOT NULL,
    d_granted bigint NOT NULL, d_held bigint NOT NULL, d_sold bigint NOT NULL, cause uuid NOT NULL, at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE addition (id uuid PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE outbox (
    id uuid PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject uuid NOT NULL,
    at timestamptz NOT NULL, trace text NOT NULL, data bytea NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(), leased_until timestamptz
);
CREATE INDEX outbox_written_at ON outbox (written_at);
-- +goose Down
DROP TABLE outbox, addition, journal, credit, allowance, leg, reservation, bucket, sale_item, sale;
