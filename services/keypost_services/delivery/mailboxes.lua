#!lua name=@LIBRARY@
-- The mailboxes' server side: each function is one atomic step on one mailbox. All keys, and the channel of the wake-ups, carry
-- the mailbox's address as hash tag, so that they share a slot.
--   waiting   stream: one entry an envelope, `t` accept time, `e` the envelope; ids are accept times that never go back
--   load      hash: `bytes` of all entries, `last` millisecond of an id
--   seen      string a message: 32 bytes of digest, then the accept time; lives as long as the mailbox age
--   receiver  string: the stream that may read
-- Lifetimes are milliseconds. The library is named after its content, so that replicas of two versions do not disturb each other.

local CHUNK = 16
local SLACK = 86400000

local function size_of(entry)
  local fields = entry[2]
  return #fields[4]
end

local function lighten(waiting, load, bytes)
  if redis.call('XLEN', waiting) == 0 then
    redis.call('HSET', load, 'bytes', 0)
  else
    redis.call('HINCRBY', load, 'bytes', -bytes)
  end
end

-- Forgets what is older than `oldest`.
local function trim(waiting, load, oldest)
  if oldest <= 0 then return end
  local newest_old = string.format('%.0f', oldest - 1)
  while true do
    local old = redis.call('XRANGE', waiting, '-', newest_old, 'COUNT', CHUNK)
    if #old == 0 then return end
    local bytes, ids = 0, {}
    for i, entry in ipairs(old) do
      ids[i] = entry[1]
      bytes = bytes + size_of(entry)
    end
    redis.call('XDEL', waiting, unpack(ids))
    lighten(waiting, load, bytes)
  end
end

-- What a mailbox says to an envelope of `size` bytes: known already, full, or (nil) that there is room, with what it holds.
local function verdict(keys, digest, accept_time, age, most_messages, most_bytes, size)
  local waiting, load, seen = keys[1], keys[2], keys[3]
  local now = tonumber(accept_time)
  local known = redis.call('GET', seen)
  if known then
    local accepted = string.sub(known, 33)
    if now < tonumber(accepted) + tonumber(age) then
      return { string.sub(known, 1, 32) == digest and 'duplicate' or 'id_used', accepted }, known
    end
  end

  trim(waiting, load, now - tonumber(age))
  local bytes = tonumber(redis.call('HGET', load, 'bytes') or '0')
  if redis.call('XLEN', waiting) + 1 > tonumber(most_messages) or bytes + size > tonumber(most_bytes) then
    return { 'full', '0' }
  end
  return nil, bytes
end

-- KEYS waiting, load, seen; ARGV channel, digest, accept time, mailbox age, most messages, most bytes, envelope
local function append(keys, args)
  local waiting, load, seen = keys[1], keys[2], keys[3]
  local channel, digest, envelope = args[1], args[2], args[7]
  local now, age = tonumber(args[3]), tonumber(args[4])

  local said, held = verdict(keys, digest, args[3], args[4], args[5], args[6], #envelope)
  if said then
    -- Written again although it stands: whoever waits for the log on this connection waits for the first writing too.
    if said[1] == 'duplicate' then redis.call('SET', seen, held, 'KEEPTTL') end
    return said
  end

  local last = string.format('%.0f', math.max(now, tonumber(redis.call('HGET', load, 'last') or '0')))
  redis.call('XADD', waiting, last .. '-*', 't', args[3], 'e', envelope)
  redis.call('HSET', load, 'bytes', held + #envelope, 'last', last)
  redis.call('SET', seen, digest .. args[3], 'PX', age)
  redis.call('PEXPIRE', waiting, age + SLACK)
  redis.call('PEXPIRE', load, age + SLACK)
  redis.call('SPUBLISH', channel, 'appended')
  return { 'appended', args[3] }
end

-- What append would say now. KEYS as there; ARGV digest, accept time, mailbox age, most messages, most bytes, size
local function foresee(keys, args)
  local said = verdict(keys, args[1], args[2], args[3], args[4], args[5], tonumber(args[6]))
  return said or { 'appended', args[2] }
end

-- KEYS waiting, load; ARGV delivery ids
local function acknowledge(keys, args)
  local waiting, load = keys[1], keys[2]
  local bytes, count = 0, 0
  for _, id in ipairs(args) do
    local entry = redis.call('XRANGE', waiting, id, id)[1]
    if entry then
      bytes = bytes + size_of(entry)
      count = count + redis.call('XDEL', waiting, id)
    end
  end
  if count > 0 then lighten(waiting, load, bytes) end
  return count
end

-- KEYS waiting, receiver; ARGV channel, receiver, lifetime of the claim
local function claim(keys, args)
  redis.call('SET', keys[2], args[2], 'PX', args[3])
  redis.call('SPUBLISH', args[1], 'claimed')
  local newest = redis.call('XREVRANGE', keys[1], '+', '-', 'COUNT', 1)[1]
  return newest and newest[1] or '0-0'
end

-- KEYS receiver; ARGV receiver
local function release(keys, args)
  if redis.call('GET', keys[1]) == args[1] then redis.call('DEL', keys[1]) end
  return redis.status_reply('OK')
end

-- KEYS waiting, load, receiver; ARGV receiver, lifetime of the claim, after, most messages, most bytes, oldest
local function read(keys, args)
  local waiting, load, receiver = keys[1], keys[2], keys[3]
  local after, room, bytes = args[3], tonumber(args[4]), tonumber(args[5])
  local holder = redis.call('GET', receiver)
  if holder and holder ~= args[1] then return { 'displaced' } end
  -- A claim that was lost (a replica took over that had not seen it) goes to whoever reads first.
  if not holder then redis.call('SET', receiver, args[1], 'PX', args[2]) end

  trim(waiting, load, tonumber(args[6]))
  local found = { 'read' }
  while room > 0 do
    local chunk = redis.call('XRANGE', waiting, '(' .. after, '+', 'COUNT', math.min(room, CHUNK))
    for _, entry in ipairs(chunk) do
      bytes = bytes - size_of(entry)
      if bytes < 0 and #found > 1 then return found end
      found[#found + 1] = { entry[1], entry[2][2], entry[2][4] }
      after = entry[1]
    end
    if #chunk < CHUNK then return found end
    room = room - #chunk
  end
  return found
end

redis.register_function('@PREFIX@append', append)
redis.register_function('@PREFIX@foresee', foresee)
redis.register_function('@PREFIX@acknowledge', acknowledge)
redis.register_function('@PREFIX@claim', claim)
redis.register_function('@PREFIX@release', release)
redis.register_function('@PREFIX@read', read)
