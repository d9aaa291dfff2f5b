-- Takes from buckets, all or nothing, in one round trip (GCRA: of each bucket one number is kept, the time at which it
-- will be full again).
--
-- KEYS: the buckets. ARGV: the time ('': this server's), '1' to take whatever there is, then for each bucket: after how
-- long one comes back, how many it holds, how many are taken. Times are microseconds.
-- Returns {0, 0}; or which bucket lacks most, and after how many milliseconds it has enough.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local force = ARGV[2] == '1'

local function keep(key, full_time)
  redis.call('SET', key, string.format('%.0f', full_time), 'PX', math.ceil((full_time - now) / 1000))
end

local function read(key, value, latest)
  if not value or #value > 16 or not string.match(value, '^%d+$') then return now end
  local full_time = math.max(tonumber(value), now)
  if full_time <= latest then return full_time end
  -- Whatever stands there, such as the time of a clock that was ahead, closes no bucket for longer than debts do.
  keep(key, latest)
  return latest
end

-- Of a value of another type MGET says that there is none, where GET fails.
local values = redis.call('MGET', unpack(KEYS))
local full_times, short, longest = {}, 0, 0
for number = 1, #KEYS do
  local interval, most, cost = tonumber(ARGV[3 * number]), tonumber(ARGV[3 * number + 1]), tonumber(ARGV[3 * number + 2])
  local latest = now + 2 * most * interval
  local full_time = read(KEYS[number], values[number], latest)
  local lacks = full_time + math.max(1, math.min(cost, most)) * interval - (now + most * interval)
  if lacks > longest then
    short, longest = number, lacks
  end
  full_times[number] = cost ~= 0 and math.min(full_time + cost * interval, latest)
end
if short > 0 and not force then return { short, math.ceil(longest / 1000) } end
for number, full_time in ipairs(full_times) do
  if full_time and full_time > now then
    keep(KEYS[number], full_time)
  elseif full_time then
    redis.call('DEL', KEYS[number])
  end
end
return { 0, 0 }
