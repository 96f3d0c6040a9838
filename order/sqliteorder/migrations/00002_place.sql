-- +goose Up
-- How far the sweeps have come.
CREATE TABLE place (sweep text PRIMARY KEY, upto integer NOT NULL, leased_until integer NOT NULL) WITHOUT ROWID;
-- +goose Down
DROP TABLE place;
