-- List pending takes whose deadline is over, those handed over before and the most overdue first, and note that they are
-- handed over: their deadlines among the due are moved below zero, in the same order, and the bucket knows until when.
-- KEYS  1 meta  2 pending  3 due
-- ARGV  1 now, ms  2 limit
-- Answer {epoch, take, record, take, record …}; {0} when the bucket is closed. Safe to run twice: what is handed over stays so.
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch')
if m[1] ~= RUN then return {0} end
local out, moved, limit = {tonumber(m[2])}, {}, tonumber(ARGV[2])
local function list(take)
  local p = redis.call('HGET', KEYS[2], take)
  if p then
    out[#out + 1] = take
    out[#out + 1] = p
  end
  return p
end
local before = string.format('%.0f', tonumber(ARGV[1]) - 1e14)
local handed = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', before, 'LIMIT', 0, limit)
for _, take in ipairs(handed) do list(take) end
local due = redis.call('ZRANGEBYSCORE', KEYS[3], 0, ARGV[1], 'WITHSCORES', 'LIMIT', 0, limit - #handed)
for i = 1, #due, 2 do
  if list(due[i]) then
    moved[#moved + 1] = string.format('%.0f', tonumber(due[i + 1]) - 1e14)
    moved[#moved + 1] = due[i]
  end
end
if #moved > 0 then
  redis.call('ZREM', KEYS[3], '') -- a server without memory refuses ZADD, unless the script has written: then it can give units back
  redis.call('ZADD', KEYS[3], unpack(moved))
  local late, last = redis.call('HGET', KEYS[1], 'late'), due[#due] -- a deadline, not a time: the clocks here may differ
  if not late or tonumber(late) < tonumber(last) then redis.call('HSET', KEYS[1], 'late', last) end
end
return out
