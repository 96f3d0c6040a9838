-- +goose Up
CREATE TABLE message (
    id uuid PRIMARY KEY, user_id uuid NOT NULL, recipient text NOT NULL, kind text NOT NULL, subject text NOT NULL, body text NOT NULL,
    state text NOT NULL, attempts integer NOT NULL, last_error text NOT NULL, created_at timestamptz NOT NULL, next_at timestamptz NOT NULL
);
CREATE INDEX message_due ON message (next_at) WHERE state = 'pending';
CREATE INDEX message_user ON message (user_id, created_at DESC);
-- +goose Down
DROP TABLE message;
