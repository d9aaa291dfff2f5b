#!lua name=@LIBRARY@
-- The mailboxes' server side: each function is one atomic step on one mailbox. All keys, and the channel of the wake-ups, carry
-- the mailbox's address as hash tag, so that they share a slot.
--   waiting   stream: one entry an envelope, `t` accept time, `e` the envelope, `s` the sending user; ids are accept times that never
--             go back
--   load      hash: `bytes` of all entries, `last` millisecond of an id
--   shares    hash: of the entries of each sending user `count:USER` and `bytes:USER`; `all`: how many entries are counted
--   seen      string a message: 32 bytes of digest, then the accept time; lives as long as the mailbox age
--   receiver  string: the stream that may read
-- Lifetimes are milliseconds. The library is named after its content, so that replicas of two versions do not disturb each other.

local CHUNK = 16
local SLACK = 86400000

local function size_of(entry)
  local fields = entry[2]
  return #(fields[4] or '')
end

-- The share of a sending user: the fields of its count and its bytes.
local function share_of(user)
  return 'count:' .. user, 'bytes:' .. user
end

-- Takes entries out, and their weight with them.
local function remove(waiting, load, shares, entries)
  local bytes, ids, users = 0, {}, {}
  for i, entry in ipairs(entries) do
    local size, user = size_of(entry), entry[2][6]
    ids[i] = entry[1]
    bytes = bytes + size
    -- An entry of a version that knew no shares has no user.
    if user then
      local share = users[user] or { 0, 0 }
      users[user] = { share[1] + 1, share[2] + size }
    end
  end
  redis.call('XDEL', waiting, unpack(ids))
  if redis.call('XLEN', waiting) == 0 then
    redis.call('HSET', load, 'bytes', 0)
    redis.call('DEL', shares)
    return
  end
  redis.call('HINCRBY', load, 'bytes', -bytes)
  redis.call('HINCRBY', shares, 'all', -#ids)
  for user, share in pairs(users) do
    local count_field, bytes_field = share_of(user)
    if redis.call('HINCRBY', shares, count_field, -share[1]) <= 0 then
      redis.call('HDEL', shares, count_field, bytes_field)
    else
      redis.call('HINCRBY', shares, bytes_field, -share[2])
    end
  end
end

-- Forgets what is older than `oldest`.
local function trim(waiting, load, shares, oldest)
  if oldest <= 0 then return end
  local newest_old = string.format('%.0f', oldest - 1)
  while true do
    local old = redis.call('XRANGE', waiting, '-', newest_old, 'COUNT', CHUNK)
    if #old == 0 then return end
    remove(waiting, load, shares, old)
  end
end

-- Adds the entries of a chunk to what is counted; returns the last one's id.
local function add(entries, counted)
  for _, entry in ipairs(entries) do
    local size, user = size_of(entry), entry[2][6]
    counted.bytes, counted.all = counted.bytes + size, counted.all + 1
    if user then
      local count_field, bytes_field = share_of(user)
      counted.shares[count_field] = (counted.shares[count_field] or 0) + 1
      counted.shares[bytes_field] = (counted.shares[bytes_field] or 0) + size
    end
  end
  return entries[#entries][1]
end

-- Counts anew what waits, if what is written of it cannot be right: a replica of a version that knew no shares took entries out, or
-- entries were lost. Else who sent them would stay locked out. Returns whether it did; an honest refusal costs no counting.
local function recount(waiting, load, shares, lifetime)
  local length = redis.call('XLEN', waiting)
  if length > 0 and tonumber(redis.call('HGET', shares, 'all') or '0') == length then return false end
  local counted, after = { bytes = 0, all = 0, shares = {} }, '-'
  while counted.all < length do
    after = '(' .. add(redis.call('XRANGE', waiting, after, '+', 'COUNT', CHUNK), counted)
  end
  redis.call('DEL', shares)
  redis.call('HSET', load, 'bytes', counted.bytes)
  redis.call('HSET', shares, 'all', counted.all)
  for field, value in pairs(counted.shares) do redis.call('HSET', shares, field, value) end
  redis.call('PEXPIRE', load, lifetime)
  redis.call('PEXPIRE', shares, lifetime)
  return true
end

-- Terms: digest, accept time, mailbox age; most messages and bytes of all; the sending user; most messages and bytes of that user's.

-- Why a mailbox has no room for an envelope of `size` bytes, if it has none; and the bytes that it holds.
local function refusal(waiting, load, shares, terms, size)
  local most_messages, most_bytes, user, share_messages, share_bytes = unpack(terms, 4, 8)
  local bytes = tonumber(redis.call('HGET', load, 'bytes') or '0')
  if redis.call('XLEN', waiting) + 1 > tonumber(most_messages) or bytes + size > tonumber(most_bytes) then
    return 'full', bytes
  end
  local share = redis.call('HMGET', shares, share_of(user))
  local count, share_size = tonumber(share[1] or '0'), tonumber(share[2] or '0')
  if count + 1 > tonumber(share_messages) or share_size + size > tonumber(share_bytes) then
    return 'share_full', bytes
  end
  return nil, bytes
end

-- What a mailbox says to an envelope of `size` bytes: known already, full, or (nil) that there is room, with what it holds.
local function verdict(keys, terms, size)
  local waiting, load, shares, seen = keys[1], keys[2], keys[3], keys[4]
  local digest, accept_time, age = unpack(terms, 1, 3)
  local now = tonumber(accept_time)
  local known = redis.call('GET', seen)
  if known then
    local accepted = string.sub(known, 33)
    if now < tonumber(accepted) + tonumber(age) then
      return { string.sub(known, 1, 32) == digest and 'duplicate' or 'id_used', accepted }, known
    end
  end

  trim(waiting, load, shares, now - tonumber(age))
  local why, bytes = refusal(waiting, load, shares, terms, size)
  if why and recount(waiting, load, shares, tonumber(age) + SLACK) then
    why, bytes = refusal(waiting, load, shares, terms, size)
  end
  if why then return { why, '0' } end
  return nil, bytes
end

-- KEYS waiting, load, shares, seen; ARGV terms, channel, envelope
local function append(keys, args)
  local waiting, load, shares, seen = keys[1], keys[2], keys[3], keys[4]
  local digest, accept_time, age, user = args[1], args[2], tonumber(args[3]), args[6]
  local channel, envelope = args[9], args[10]
  local now = tonumber(accept_time)

  local said, held = verdict(keys, args, #envelope)
  if said then
    -- Written again although it stands: whoever waits for the log on this connection waits for the first writing too.
    if said[1] == 'duplicate' then redis.call('SET', seen, held, 'KEEPTTL') end
    return said
  end

  local last = string.format('%.0f', math.max(now, tonumber(redis.call('HGET', load, 'last') or '0')))
  redis.call('XADD', waiting, last .. '-*', 't', accept_time, 'e', envelope, 's', user)
  redis.call('HSET', load, 'bytes', held + #envelope, 'last', last)
  local count_field, bytes_field = share_of(user)
  redis.call('HINCRBY', shares, 'all', 1)
  redis.call('HINCRBY', shares, count_field, 1)
  redis.call('HINCRBY', shares, bytes_field, #envelope)
  redis.call('SET', seen, digest .. accept_time, 'PX', age)
  redis.call('PEXPIRE', waiting, age + SLACK)
  redis.call('PEXPIRE', load, age + SLACK)
  redis.call('PEXPIRE', shares, age + SLACK)
  return { 'appended', accept_time, redis.call('SPUBLISH', channel, 'appended') }
end

-- What append would say now. KEYS as there; ARGV terms, size
local function foresee(keys, args)
  local said = verdict(keys, args, tonumber(args[9]))
  return said or { 'appended', args[2] }
end

-- KEYS waiting, load, shares; ARGV delivery ids
local function acknowledge(keys, args)
  local waiting, load, shares = keys[1], keys[2], keys[3]
  local found, named = {}, {}
  for _, id in ipairs(args) do
    local entry = redis.call('XRANGE', waiting, id, id)[1]
    if entry and not named[entry[1]] then
      named[entry[1]] = true
      found[#found + 1] = entry
    end
  end
  if #found > 0 then remove(waiting, load, shares, found) end
  return #found
end

-- KEYS waiting, load, shares. Returns how many entries there were; `last` stays, so that ids never go back.
local function empty(keys)
  local count = redis.call('XLEN', keys[1])
  if count > 0 then
    redis.call('UNLINK', keys[1], keys[3])
    redis.call('HSET', keys[2], 'bytes', 0)
  end
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

-- KEYS waiting, load, shares, receiver; ARGV receiver, lifetime of the claim, after, most messages, most bytes, oldest
local function read(keys, args)
  local waiting, load, shares, receiver = keys[1], keys[2], keys[3], keys[4]
  local after, room, bytes = args[3], tonumber(args[4]), tonumber(args[5])
  local holder = redis.call('GET', receiver)
  if holder and holder ~= args[1] then return { 'displaced' } end
  -- A claim that was lost (a replica took over that had not seen it) goes to whoever reads first.
  if not holder then redis.call('SET', receiver, args[1], 'PX', args[2]) end

  trim(waiting, load, shares, tonumber(args[6]))
  local found = { 'read' }
  while room > 0 do
    local chunk = redis.call('XRANGE', waiting, '(' .. after, '+', 'COUNT', math.min(room, CHUNK))
    for _, entry in ipairs(chunk) do
      bytes = bytes - size_of(entry)
      if bytes < 0 and #found > 1 then return found end
      found[#found + 1] = { entry[1], entry[2][2], entry[2][4] or '' }
      after = entry[1]
    end
    if #chunk < CHUNK then return found end
    room = room - #chunk
  end
  return found
end

-- KEYS waiting. How many entries there are, and the accept time of the first.
local function backlog(keys)
  local first = redis.call('XRANGE', keys[1], '-', '+', 'COUNT', 1)[1]
  return { redis.call('XLEN', keys[1]), first and first[2][2] or '0' }
end

redis.register_function('@PREFIX@append', append)
redis.register_function('@PREFIX@foresee', foresee)
redis.register_function('@PREFIX@acknowledge', acknowledge)
redis.register_function('@PREFIX@empty', empty)
redis.register_function('@PREFIX@claim', claim)
redis.register_function('@PREFIX@release', release)
redis.register_function('@PREFIX@read', read)
redis.register_function('@PREFIX@backlog', backlog)
