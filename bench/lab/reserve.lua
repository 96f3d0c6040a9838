-- wrk: every request is another shopper's, under another Idempotency-Key. The service and the echo
-- are sent the same bytes, made the same way. Arguments after "--": folder, name of the round.
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local function text(path)
  local f = assert(io.open(path, "rb"))
  local s = f:read("*a")
  f:close()
  return s
end

local tokens, head, middle, bodies, n

-- Tokens are read as they are needed: threads begin one after the other, and one that first read a
-- long file would begin late.
function init(args)
  local dir, round = args[1], args[2]
  tokens = assert(io.open(dir .. "/tokens." .. number, "rb"))
  head = text(dir .. "/" .. round .. ".head")
  middle = "\r\nIdempotency-Key: " .. round .. "-" .. number .. "-"
  bodies = {}
  for line in io.lines(dir .. "/" .. round .. ".bodies") do
    bodies[#bodies + 1] = "\r\n\r\n" .. line
  end
  n = 0
end

function request()
  local token = tokens:read("*l")
  if not token then
    tokens:seek("set")
    token = tokens:read("*l")
  end
  n = n + 1
  return head .. token .. middle .. n .. bodies[n % #bodies + 1]
end

-- wrk prints 50, 75, 90 and 99.
function done(summary, latency, requests)
  io.write(string.format("     95%%  %9.2fus\n", latency:percentile(95.0)))
end
