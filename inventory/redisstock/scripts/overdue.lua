-- List pending takes whose deadline is over, the most overdue first.
-- KEYS  1 meta  2 pending  3 due
-- ARGV  1 now, ms  2 limit
-- Answer {epoch, take, record, take, record …}; {0} when the bucket is closed. It changes nothing.
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch')
if m[1] ~= RUN then return {0} end
local out = {tonumber(m[2])}
for _, take in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  local p = redis.call('HGET', KEYS[2], take)
  if p then
    out[#out + 1] = take
    out[#out + 1] = p
  end
end
return out
