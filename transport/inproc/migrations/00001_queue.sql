-- +goose Up
CREATE TABLE message (
    id blob NOT NULL, service text NOT NULL, body blob NOT NULL, attempts integer NOT NULL DEFAULT 0,
    not_before integer NOT NULL, queued_at integer NOT NULL, dead integer NOT NULL DEFAULT 0, reason text NOT NULL DEFAULT '',
    PRIMARY KEY (id, service)
) WITHOUT ROWID;
CREATE INDEX message_due ON message (service, dead, not_before);
-- +goose Down
DROP TABLE message;
