-- +goose Up
CREATE TABLE account (
    id uuid PRIMARY KEY, email text NOT NULL CONSTRAINT account_email UNIQUE, password_hash text NOT NULL, role text NOT NULL, created_at timestamptz NOT NULL
);
CREATE TABLE refresh (
    hash bytea PRIMARY KEY, family uuid NOT NULL, account uuid NOT NULL REFERENCES account, expires_at timestamptz NOT NULL,
    used boolean NOT NULL DEFAULT false, revoked boolean NOT NULL DEFAULT false
);
CREATE INDEX refresh_family ON refresh (family);
-- +goose Down
DROP TABLE refresh, account;
