-- +goose Up
-- What an addition added, so that its repetition says the same again.
ALTER TABLE addition ADD COLUMN units bigint NOT NULL DEFAULT 0;
-- +goose Down
ALTER TABLE addition DROP COLUMN units;
