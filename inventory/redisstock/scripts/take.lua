-- Take units of one bucket.
-- KEYS  1 meta  2 pending  3 due  4 users of the epoch
-- ARGV  1 take  2 epoch  3 user  4 quantity  5 limit per shopper (0 none)  6 deadline, ms  7 time to live, s
-- Answer {code, units the shopper had, available}: 0 taken, 1 short, 2 limit, 3 fenced, 4 closed.
-- Safe to run twice: a take that is pending is answered the same again. Everything is checked before
-- the first write, because a script that fails half-way is not rolled back.
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch', 'avail')
if m[1] ~= RUN then return {4, 0, 0} end
if m[2] ~= ARGV[2] then return {3, 0, 0} end
local avail, qty, limit = tonumber(m[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local had = tonumber(redis.call('HGET', KEYS[4], ARGV[3]) or '0')
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return {0, had - qty, avail} end
if limit > 0 and had + qty > limit then return {2, had, avail} end
if avail < qty then return {1, had, avail} end
redis.call('HINCRBY', KEYS[1], 'avail', -qty)
redis.call('HINCRBY', KEYS[1], 'pend', qty)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4] .. ' ' .. ARGV[3] .. ' ' .. ARGV[6])
redis.call('ZADD', KEYS[3], ARGV[6], ARGV[1])
redis.call('HINCRBY', KEYS[4], ARGV[3], qty)
-- The first pending take and the first shopper set the time to live; a sale that ended vanishes.
if redis.call('HLEN', KEYS[2]) == 1 then
  redis.call('EXPIRE', KEYS[2], ARGV[7])
  redis.call('EXPIRE', KEYS[3], ARGV[7])
end
if redis.call('HLEN', KEYS[4]) == 1 then redis.call('EXPIRE', KEYS[4], ARGV[7]) end
return {0, had, avail - qty}
