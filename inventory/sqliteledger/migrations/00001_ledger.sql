-- +goose Up
CREATE TABLE sale (
    id blob PRIMARY KEY, status text NOT NULL, opens_at integer NOT NULL, ends_at integer NOT NULL,
    per_user_limit integer NOT NULL, hold_us integer NOT NULL, revision integer NOT NULL, ended_at integer NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE sale_item (
    sale blob NOT NULL REFERENCES sale, sku text NOT NULL, price integer NOT NULL, currency text NOT NULL, total integer NOT NULL,
    PRIMARY KEY (sale, sku)
) WITHOUT ROWID;
CREATE TABLE bucket (
    sale blob NOT NULL, sku text NOT NULL, shard integer NOT NULL, epoch integer NOT NULL,
    granted integer NOT NULL, held integer NOT NULL DEFAULT 0, sold integer NOT NULL DEFAULT 0, credit_seq integer NOT NULL DEFAULT 0,
    PRIMARY KEY (sale, sku, shard), FOREIGN KEY (sale, sku) REFERENCES sale_item,
    CHECK (held >= 0 AND sold >= 0 AND held + sold <= granted)
) WITHOUT ROWID;
CREATE TABLE reservation (
    id blob PRIMARY KEY, user_id blob NOT NULL, sale blob NOT NULL, sku text NOT NULL, qty integer NOT NULL,
    price integer NOT NULL, currency text NOT NULL, state text NOT NULL, reason text NOT NULL, payment blob NOT NULL, cart blob NOT NULL,
    fingerprint blob NOT NULL, created_at integer NOT NULL, expires_at integer NOT NULL
);
CREATE INDEX reservation_due ON reservation (expires_at) WHERE state = 'held';
CREATE TABLE leg (
    take blob PRIMARY KEY, reservation blob NOT NULL, sale blob NOT NULL, sku text NOT NULL, shard integer NOT NULL,
    epoch integer NOT NULL, qty integer NOT NULL, outcome text NOT NULL
) WITHOUT ROWID;
CREATE INDEX leg_reservation ON leg (reservation);
CREATE TABLE allowance (
    sale blob NOT NULL, sku text NOT NULL, user_id blob NOT NULL, qty integer NOT NULL CHECK (qty >= 0), PRIMARY KEY (sale, sku, user_id)
) WITHOUT ROWID;
CREATE TABLE credit (
    sale blob NOT NULL, sku text NOT NULL, shard integer NOT NULL, seq integer NOT NULL, qty integer NOT NULL, user_id blob NOT NULL,
    PRIMARY KEY (sale, sku, shard, seq)
) WITHOUT ROWID;
CREATE TABLE journal (
    id integer PRIMARY KEY, sale blob NOT NULL, sku text NOT NULL, shard integer NOT NULL, kind text NOT NULL,
    d_granted integer NOT NULL, d_held integer NOT NULL, d_sold integer NOT NULL, cause blob NOT NULL, at integer NOT NULL
);
CREATE TABLE addition (id blob PRIMARY KEY, at integer NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (
    id blob PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject blob NOT NULL,
    at integer NOT NULL, trace text NOT NULL, data blob NOT NULL,
    written_at integer NOT NULL, leased_until integer NOT NULL DEFAULT 0
);
CREATE INDEX outbox_written_at ON outbox (written_at);
-- +goose Down
DROP TABLE outbox; DROP TABLE addition; DROP TABLE journal; DROP TABLE credit; DROP TABLE allowance; DROP TABLE leg;
DROP TABLE reservation; DROP TABLE bucket; DROP TABLE sale_item; DROP TABLE sale;
