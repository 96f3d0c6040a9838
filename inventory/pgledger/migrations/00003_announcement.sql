-- +goose Up
-- A reservation's event is made again from its row, so the row has its trace.
ALTER TABLE reservation ADD COLUMN trace text NOT NULL DEFAULT '';
-- The outbox of reservation.held: a row names the reservations of a group that order may not have been
-- told of. An outbox row each was 40 % of PostgreSQL's work for a reservation.
CREATE TABLE announcement (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, reservations uuid[] NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(), leased_until timestamptz
);
-- +goose Down
DROP TABLE announcement;
ALTER TABLE reservation DROP COLUMN trace;
