-- +goose Up
CREATE TABLE account (
    id blob PRIMARY KEY, email text NOT NULL UNIQUE, password_hash text NOT NULL, role text NOT NULL, created_at integer NOT NULL
) WITHOUT ROWID;
CREATE TABLE refresh (
    hash blob PRIMARY KEY, family blob NOT NULL, account blob NOT NULL REFERENCES account, expires_at integer NOT NULL,
    used integer NOT NULL DEFAULT 0, revoked integer NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX refresh_family ON refresh (family);
-- +goose Down
DROP TABLE refresh; DROP TABLE account;
