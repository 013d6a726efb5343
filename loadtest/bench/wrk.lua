-- Posts bodies in turn, the broken one as every EVERY-th request, and prints the result as one line of JSON.
--   wrk … -s loadtest/bench/wrk.lua URL -- CONTENT_TYPE EVERY BROKEN_FILE BODY_FILE…      (EVERY 0: no broken body)

local requests, broken, every = {}, nil, 0
local sender
at = 0  -- requests that were sent; global, so that done() can read it

function setup(thread)
  sender = thread
end

local function post(content_type, path)
  local file = assert(io.open(path, "rb"))
  local body = file:read("*a")
  file:close()
  return wrk.format("POST", nil, {["Content-Type"] = content_type}, body)
end

function init(args)
  every = tonumber(args[2])
  broken = post(args[1], args[3])
  for place = 4, #args do
    requests[#requests + 1] = post(args[1], args[place])
  end
end

function request()
  at = at + 1
  if every > 0 and at % every == 0 then
    return broken
  end
  return requests[at % #requests + 1]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    'wrk {"requests": %d, "microseconds": %d, "p50_us": %d, "p99_us": %d, "refused": %d, "lost": %d, "sent": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout, sender:get("at")
  ))
end
