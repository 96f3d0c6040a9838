-- Give the units of pending takes back.
-- KEYS  1 meta  2 pending  3 due  4 users of the epoch
-- ARGV  1 epoch  2 '1': those too that overdue has handed over  3… takes
-- Answer: how many were given back. Safe to run twice: giving back removes the pending record, and a
-- take without one is ignored.
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch')
if m[1] ~= RUN or m[2] ~= ARGV[1] then return 0 end
local n = 0
for i = 3, #ARGV do
  local p = redis.call('HGET', KEYS[2], ARGV[i])
  if p and (ARGV[2] == '1' or tonumber(redis.call('ZSCORE', KEYS[3], ARGV[i]) or -1) >= 0) then
    local qty, user = string.match(p, '^(%d+) (%S+)')
    qty = tonumber(qty)
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
    redis.call('HINCRBY', KEYS[1], 'pend', -qty)
    redis.call('HINCRBY', KEYS[1], 'avail', qty)
    if redis.call('HINCRBY', KEYS[4], user, -qty) <= 0 then redis.call('HDEL', KEYS[4], user) end
    n = n + 1
  end
end
return n
