-- Open a bucket under a higher epoch.
-- KEYS  1 meta  2 pending  3 due  4 users of the epoch  5 users as loaded for this call
-- ARGV  1 epoch  2 available  3 number of the last credit  4 prefix of the users' keys  5 time to live, s
--       6 number of users loaded
-- Answer: 1 installed, 0 ignored because the epoch is not higher, -1 not all users are there: nothing is done.
-- Run twice, the second time the epoch is not higher; unless the server has forgotten the first time, so it is
-- sent once. What another run of the server left behind (a stale snapshot) does not count.
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch')
if tonumber(ARGV[1]) < 1 or (m[1] == RUN and tonumber(m[2]) >= tonumber(ARGV[1])) then
  redis.call('UNLINK', KEYS[5])
  return 0
end
if redis.call('HLEN', KEYS[5]) ~= tonumber(ARGV[6]) then
  redis.call('UNLINK', KEYS[5])
  return -1
end
if m[2] then redis.call('UNLINK', ARGV[4] .. m[2]) end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
if redis.call('EXISTS', KEYS[5]) == 1 then
  redis.call('RENAME', KEYS[5], KEYS[4])
  redis.call('EXPIRE', KEYS[4], ARGV[5])
end
redis.call('HSET', KEYS[1], 'run', RUN, 'epoch', ARGV[1], 'avail', ARGV[2], 'seq', ARGV[3], 'pend', 0)
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
