-- +goose Up
-- How far the sweeps have come.
CREATE TABLE place (sweep text PRIMARY KEY, upto bigint NOT NULL, leased_until timestamptz NOT NULL);
-- +goose Down
DROP TABLE place;
