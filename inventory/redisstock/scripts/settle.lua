-- Forget pending takes that the ledger has committed.
-- KEYS  1 meta  2 pending  3 due
-- ARGV  1 epoch  2… takes
-- Answer: how many were pending. Safe to run twice: a take that is not pending is ignored.
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch')
if m[1] ~= RUN or m[2] ~= ARGV[1] then return 0 end
local n = 0
for i = 2, #ARGV do
  local p = redis.call('HGET', KEYS[2], ARGV[i])
  if p then
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
    redis.call('HINCRBY', KEYS[1], 'pend', -tonumber(string.match(p, '^%d+')))
    n = n + 1
  end
end
return n
