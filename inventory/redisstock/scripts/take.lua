-- Take units of one bucket, for a group of shoppers, in order.
-- KEYS  1 meta  2 pending  3 due  4 users of the epoch  5 numbers of the groups that were sent again
-- ARGV  1 epoch  2 time to live, s  3 sender  4 number of the sending  5 '1': sent again
--       then for each take: take, user, quantity, limit per shopper (0 none), deadline, ms, note
-- Answer for each take {code, units the shopper had, available}, flat: 0 taken, 1 short, 2 limit, 3 fenced, 4 closed, 5 overtaken.
-- Safe to run twice: a take that is pending is answered the same again. Of a group that is sent again the first sending may
-- come last, long after its takes were answered, settled and forgotten: it is overtaken, and does nothing. Or it comes first,
-- nobody hears of it, its takes are overdue and concluded, and then the next one comes: those takes are overtaken, too.
-- Everything is checked before the first write but that of the number, because a script that fails half-way is not rolled back.
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch', 'avail', 'late')
local n = (#ARGV - 5) / 6
local out = {}
local last = redis.call('HGET', KEYS[5], ARGV[3])
local closed = m[1] ~= RUN and 4 or m[2] ~= ARGV[1] and 3
if last and tonumber(last) > tonumber(ARGV[4]) then
  closed = 5
elseif ARGV[5] == '1' then
  redis.call('HSET', KEYS[5], ARGV[3], ARGV[4])
  redis.call('EXPIRE', KEYS[5], ARGV[2])
end
local late = ARGV[5] == '1' and tonumber(m[4] or '0') or 0 -- the latest deadline of those handed over to be concluded
if closed then
  for i = 1, n do out[3 * i - 2], out[3 * i - 1], out[3 * i] = closed, 0, 0 end
  return out
end
local takes, users = {}, {}
for i = 1, n do takes[i], users[i] = ARGV[6 * i], ARGV[6 * i + 1] end
local known = redis.call('HMGET', KEYS[2], unpack(takes))
local counts = redis.call('HMGET', KEYS[4], unpack(users))
local has, gained, seen, records, due, sum = {}, {}, {}, {}, {}, 0
local avail = tonumber(m[3])
for i = 1, n do has[users[i]] = tonumber(counts[i] or '0') end
for i = 1, n do
  local take, user, deadline, note = takes[i], users[i], ARGV[6 * i + 4], ARGV[6 * i + 5]
  local qty, limit, had = tonumber(ARGV[6 * i + 2]), tonumber(ARGV[6 * i + 3]), has[user]
  local code = 0
  if known[i] or seen[take] then
    had = had - qty
  elseif tonumber(deadline) <= late then
    code = 5
  elseif limit > 0 and had + qty > limit then
    code = 2
  elseif avail < qty then
    code = 1
  else
    avail, sum, seen[take] = avail - qty, sum + qty, true
    has[user], gained[user] = had + qty, (gained[user] or 0) + qty
    records[#records + 1] = take
    records[#records + 1] = ARGV[6 * i + 2] .. ' ' .. user .. ' ' .. deadline .. (note ~= '' and ' ' .. note or '')
    due[#due + 1] = deadline
    due[#due + 1] = take
  end
  out[3 * i - 2], out[3 * i - 1], out[3 * i] = code, had, avail
end
if sum == 0 then return out end
redis.call('HINCRBY', KEYS[1], 'avail', -sum)
redis.call('HINCRBY', KEYS[1], 'pend', sum)
redis.call('HSET', KEYS[2], unpack(records))
redis.call('ZADD', KEYS[3], unpack(due))
local shoppers = 0
for user, qty in pairs(gained) do
  redis.call('HINCRBY', KEYS[4], user, qty)
  shoppers = shoppers + 1
end
-- The first pending takes and the first shoppers set the time to live; a sale that ended vanishes.
if redis.call('HLEN', KEYS[2]) * 2 == #records then
  redis.call('EXPIRE', KEYS[2], ARGV[2])
  redis.call('EXPIRE', KEYS[3], ARGV[2])
end
if redis.call('HLEN', KEYS[4]) <= shoppers then redis.call('EXPIRE', KEYS[4], ARGV[2]) end
return out
