-- Read what a bucket knows.
-- KEYS  1 meta
-- Answer {epoch, available, last credit, pending}; zeros when it is closed. It changes nothing.
local m = redis.call('HMGET', KEYS[1], 'run', 'epoch', 'avail', 'seq', 'pend')
if m[1] ~= RUN then return {0, 0, 0, 0} end
return {tonumber(m[2]), tonumber(m[3]), tonumber(m[4]), tonumber(m[5])}
