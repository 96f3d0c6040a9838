-- +goose Up
-- What an operator is shown of a dead letter. `reason` was, and is, the text of the last error.
ALTER TABLE message ADD COLUMN why text NOT NULL DEFAULT '';
ALTER TABLE message ADD COLUMN replays integer NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN first_failed integer NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN died_at integer NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN replay_at integer NOT NULL DEFAULT 0;
-- Of letters that died before this, nothing more is known.
UPDATE message SET why = CASE WHEN attempts < 10 THEN 'permanent' ELSE 'attempts' END, first_failed = queued_at, died_at = not_before WHERE dead = 1;
CREATE INDEX message_died ON message (died_at, service, id) WHERE dead = 1;
CREATE INDEX message_replay ON message (service, replay_at) WHERE dead = 1 AND replay_at > 0;
-- +goose Down
DROP INDEX message_replay;
DROP INDEX message_died;
ALTER TABLE message DROP COLUMN replay_at;
ALTER TABLE message DROP COLUMN died_at;
ALTER TABLE message DROP COLUMN first_failed;
ALTER TABLE message DROP COLUMN replays;
ALTER TABLE message DROP COLUMN why;
