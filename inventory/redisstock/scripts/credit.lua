-- Apply credits in order.
-- KEYS  1 meta  2 users of the epoch
-- ARGV  1 epoch  then for each credit: number, quantity, user ('' for none)
-- Answer: the number of the last credit applied, or -3 fenced, -4 closed.
-- Safe to run twice: only the credit that is next by its number is applied.
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch', 'seq')
if m[1] ~= RUN then return -4 end
if m[2] ~= ARGV[1] then return -3 end
local seq, units = tonumber(m[3]), 0
for i = 2, #ARGV, 3 do
  if tonumber(ARGV[i]) == seq + 1 then
    seq = seq + 1
    units = units + tonumber(ARGV[i + 1])
    local user = ARGV[i + 2]
    if user ~= '' and redis.call('HEXISTS', KEYS[2], user) == 1 then
      if redis.call('HINCRBY', KEYS[2], user, -tonumber(ARGV[i + 1])) <= 0 then redis.call('HDEL', KEYS[2], user) end
    end
  end
end
if units > 0 then redis.call('HINCRBY', KEYS[1], 'avail', units) end
redis.call('HSET', KEYS[1], 'seq', seq)
return seq
