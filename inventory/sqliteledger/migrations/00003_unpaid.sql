-- +goose Up
-- Who holds what unpaid: the bound on it is counted here.
CREATE INDEX reservation_unpaid ON reservation (user_id) WHERE state IN ('held', 'paying');
-- +goose Down
DROP INDEX reservation_unpaid;
