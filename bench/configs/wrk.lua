-- wrk's part of the bench; it is told by the environment, because `done` runs in a Lua state of its own.
--   BENCH_HEAD_START  seconds; the connections are kept, all are opened at once, and the first request waits that
--                     long, so that handshakes are not in the figures. Without it nothing is delayed.
--   BENCH_CONNECTIONS how many they are
--   BENCH_RATE        requests per second in all, however fast the answers come: a connection that is free takes the
--                     next slot of one timetable. wrk's timers have a grain of 1 ms, so a wait is rounded up or down
--                     at random. Without it every connection asks again at once.
local head_start = tonumber(os.getenv("BENCH_HEAD_START") or "0")
local opening = tonumber(os.getenv("BENCH_CONNECTIONS") or "0")
local rate = tonumber(os.getenv("BENCH_RATE") or "0")

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } bench_time;
  int clock_gettime(int clock, bench_time *time);
]]
local time = ffi.new("bench_time")

local function now() -- milliseconds
  ffi.C.clock_gettime(1, time) -- CLOCK_MONOTONIC
  return tonumber(time.seconds) * 1e3 + tonumber(time.nanoseconds) / 1e6
end

local begin, slot

local function wait()
  if rate == 0 and opening == 0 then
    return 0
  end
  local at = now()
  begin = begin or at + head_start * 1e3
  if rate == 0 then
    opening = opening - 1
    return math.max(begin - at, 0)
  end
  slot = math.max((slot or begin) + 1e3 / rate, at - 1e3) -- never more than a second behind
  return math.floor(math.max(slot - at, 0) + math.random())
end

if head_start > 0 then
  delay = wait -- wrk looks for this name
end

-- What wrk has counted, as one line of JSON. Latencies are in microseconds.
function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    'report {"requests": %d, "seconds": %.6f, "bytes": %d, "p50": %d, "p99": %d, "p999": %d, "errors": %d}\n',
    summary.requests, summary.duration / 1e6 - head_start, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
