#!lua name=@LIBRARY@
-- The mailboxes' server side: each function is one atomic step on one mailbox. All keys, and the channel of the wake-ups, carry
-- the mailbox's address as hash tag, so that they share a slot.
--   waiting   stream: one entry an envelope, `t` accept time, `e` the envelope, `s` the sending user, `c` the trace
--             context if it has one; ids are accept times that never
--             go back
--   load      hash: `bytes` of all entries, `last` millisecond of an id, how far the mailbox was handed out: `handed` at all,
--             `prior` before this claim, `current` under this claim; the highest number `drawn` for a claim, and that of the last
--             claim, `claimed`
--   shares    hash: of the entries of each sending user `count:USER` and `bytes:USER`; `all`: how many entries are counted
--   attempts  hash: of an entry that was handed out under several claims, how often beyond the first time
--   seen      string a message: 32 bytes of digest, then the accept time; lives as long as the mailbox age
--   receiver  string: the stream that may read
-- Lifetimes are milliseconds. The library is named after its content, so that replicas of two versions do not disturb each other.
-- No step does work that grows with what waits, but for `recount`, which mends.

local CHUNK = 16
local SLACK = 86400000
local MOST_TRIMMED = 64 * CHUNK
local BEGINNING = '0-0'
local IS_THERE = { appended = true, duplicate = true, id_used = true }

local function size_of(entry)
  local fields = entry[2]
  return #(fields[4] or '')
end

-- Whether an id comes before another one.
local function before(one, other)
  local time, number = string.match(one, '^(%d+)-(%d+)$')
  local other_time, other_number = string.match(other, '^(%d+)-(%d+)$')
  time, other_time = tonumber(time), tonumber(other_time)
  return time < other_time or (time == other_time and tonumber(number) < tonumber(other_number))
end

-- The share of a sending user: the fields of its count and its bytes.
local function share_of(user)
  return 'count:' .. user, 'bytes:' .. user
end

-- The keys of what waits and of what is known of it.
local function contents(keys)
  return { waiting = keys[1], load = keys[2], shares = keys[3], attempts = keys[4] }
end

-- Takes entries out, and their weight with them.
local function remove(box, entries)
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
  redis.call('XDEL', box.waiting, unpack(ids))
  if redis.call('XLEN', box.waiting) == 0 then
    redis.call('HSET', box.load, 'bytes', 0)
    redis.call('DEL', box.shares, box.attempts)
    return
  end
  redis.call('HINCRBY', box.load, 'bytes', -bytes)
  redis.call('HINCRBY', box.shares, 'all', -#ids)
  if redis.call('EXISTS', box.attempts) == 1 then redis.call('HDEL', box.attempts, unpack(ids)) end
  for user, share in pairs(users) do
    local count_field, bytes_field = share_of(user)
    if redis.call('HINCRBY', box.shares, count_field, -share[1]) <= 0 then
      redis.call('HDEL', box.shares, count_field, bytes_field)
    else
      redis.call('HINCRBY', box.shares, bytes_field, -share[2])
    end
  end
end

-- Forgets what is older than `oldest`, so much of it that the step stays short; returns how many entries that were.
local function trim(box, oldest)
  local count = 0
  if oldest <= 0 then return count end
  local newest_old = string.format('%.0f', oldest - 1)
  for _ = 1, MOST_TRIMMED / CHUNK do
    local old = redis.call('XRANGE', box.waiting, '-', newest_old, 'COUNT', CHUNK)
    if #old == 0 then break end
    remove(box, old)
    count = count + #old
  end
  return count
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
local function recount(box, lifetime)
  local length = redis.call('XLEN', box.waiting)
  if length > 0 and tonumber(redis.call('HGET', box.shares, 'all') or '0') == length then return false end
  local counted, after = { bytes = 0, all = 0, shares = {} }, '-'
  while counted.all < length do
    after = '(' .. add(redis.call('XRANGE', box.waiting, after, '+', 'COUNT', CHUNK), counted)
  end
  redis.call('DEL', box.shares)
  redis.call('HSET', box.load, 'bytes', counted.bytes)
  redis.call('HSET', box.shares, 'all', counted.all)
  for field, value in pairs(counted.shares) do redis.call('HSET', box.shares, field, value) end
  redis.call('PEXPIRE', box.load, lifetime)
  redis.call('PEXPIRE', box.shares, lifetime)
  return true
end

-- What a mailbox holds, and what the messages that a call has taken in add to it; that is written down at its end.
local function weigh(box)
  local load = redis.call('HMGET', box.load, 'bytes', 'last')
  return {
    messages = redis.call('XLEN', box.waiting),
    bytes = tonumber(load[1] or '0'),
    last = tonumber(load[2] or '0'),
    taken = 0,
    users = {},
  }
end

local function weight_of(box, held, user)
  local share = held.users[user]
  if not share then
    local found = redis.call('HMGET', box.shares, share_of(user))
    share = { messages = tonumber(found[1] or '0'), bytes = tonumber(found[2] or '0') }
    held.users[user] = share
  end
  return share
end

-- Writes down what the messages that a call has taken in weigh.
local function write_down(box, held, lifetime)
  redis.call('HSET', box.load, 'bytes', held.bytes, 'last', string.format('%.0f', held.last))
  redis.call('HINCRBY', box.shares, 'all', held.taken)
  for user, share in pairs(held.users) do
    local count_field, bytes_field = share_of(user)
    if share.messages > 0 then redis.call('HSET', box.shares, count_field, share.messages, bytes_field, share.bytes) end
  end
  redis.call('PEXPIRE', box.waiting, lifetime)
  redis.call('PEXPIRE', box.load, lifetime)
  redis.call('PEXPIRE', box.shares, lifetime)
end

-- Why a mailbox has no room for an envelope of `size` bytes, if it has none.
local function refusal(box, held, limits, user, size)
  if held.messages + 1 > limits.messages or held.bytes + size > limits.bytes then return 'full' end
  local share = weight_of(box, held, user)
  if share.messages + 1 > limits.share_messages or share.bytes + size > limits.share_bytes then return 'share_full' end
end

-- The messages of a call: KEYS waiting, load, shares, attempts, seen…; ARGV most messages and bytes of all, of a sending user,
-- channel, then for each `seen` digest, accept time, mailbox age, sending user, what is to be put in and its trace context.
local HEAD, TERMS = 5, 6
local function messages_of(keys, args)
  local messages = {}
  for i = 1, #keys - 4 do
    local at = HEAD + (i - 1) * TERMS
    messages[i] = {
      seen = keys[4 + i],
      digest = args[at + 1],
      accept_time = args[at + 2],
      now = tonumber(args[at + 2]),
      age = tonumber(args[at + 3]),
      user = args[at + 4],
      content = args[at + 5],
      trace_context = args[at + 6],
    }
  end
  return messages
end

-- What a mailbox says to a message that it knows.
local function recognition(known, message)
  if not known then return end
  local accepted = string.sub(known, 33)
  if message.now >= tonumber(accepted) + message.age then return end
  return { string.sub(known, 1, 32) == message.digest and 'duplicate' or 'id_used', accepted }
end

-- Says to each message of a call what becomes of it, one after the other. Who was refused for want of room gets nothing else in by
-- the same call: it would overtake. `known` looks a name up, `put` puts a message in.
local function judge(box, messages, args, size_of_content, known, put)
  local limits = {
    messages = tonumber(args[1]), bytes = tonumber(args[2]),
    share_messages = tonumber(args[3]), share_bytes = tonumber(args[4]),
  }
  local oldest, lifetime = 0, 0
  for _, message in ipairs(messages) do
    oldest, lifetime = math.max(oldest, message.now - message.age), math.max(lifetime, message.age + SLACK)
  end
  local expired = trim(box, oldest)

  local replies, refused, held = {}, {}, weigh(box)
  for i, message in ipairs(messages) do
    local reply = recognition(known(message), message)
    if not reply then
      local size, user = size_of_content(message), message.user
      local why = refused[user] or refusal(box, held, limits, user, size)
      if why and held.taken == 0 and recount(box, lifetime) then
        held = weigh(box)
        why = refusal(box, held, limits, user, size)
      end
      refused[user] = why
      if why then
        reply = { why, '0' }
      else
        put(message, held)
        local share = weight_of(box, held, user)
        held.taken, held.messages, held.bytes = held.taken + 1, held.messages + 1, held.bytes + size
        share.messages, share.bytes = share.messages + 1, share.bytes + size
        reply = { 'appended', message.accept_time }
      end
    end
    replies[i] = reply
  end
  return replies, held, lifetime, expired
end

-- Returns how many messages wait now, what it says to each of those that were handed in, and how many were too old to wait on.
local function append(keys, args)
  local box, channel = contents(keys), args[5]
  local function known(message)
    local held = redis.call('GET', message.seen)
    local said = recognition(held, message)
    -- Written again although it stands: whoever waits for the log on this connection waits for the first writing too.
    if said then redis.call('SET', message.seen, held, 'KEEPTTL') end
    return held
  end
  local function put(message, held)
    held.last = math.max(message.now, held.last)
    local fields = { 't', message.accept_time, 'e', message.content, 's', message.user }
    if message.trace_context ~= '' then
      fields[7], fields[8] = 'c', message.trace_context
    end
    local last = string.format('%.0f', held.last)
    local id = redis.pcall('XADD', box.waiting, last .. '-*', unpack(fields))
    -- What is written of the last id was lost: the stream knows better.
    if id.err then id = redis.call('XADD', box.waiting, '*', unpack(fields)) end
    held.last = tonumber(string.match(id, '^%d+'))
    redis.call('SET', message.seen, message.digest .. message.accept_time, 'PX', message.age)
  end
  local function size_of_content(message) return #message.content end
  local replies, held, lifetime, expired = judge(box, messages_of(keys, args), args, size_of_content, known, put)
  if held.taken > 0 then write_down(box, held, lifetime) end
  -- Said of what is there already too: who put it in may have died before anybody was told that nobody heard.
  local heard
  for _, reply in ipairs(replies) do
    if IS_THERE[reply[1]] then
      heard = heard or redis.call('SPUBLISH', channel, 'appended')
      reply[3] = heard
    end
  end
  return { held.messages, replies, expired }
end

-- What append would say now; in the place of the envelopes stand their sizes.
local function foresee(keys, args)
  local named = {}
  local function known(message) return named[message.seen] or redis.call('GET', message.seen) end
  local function put(message) named[message.seen] = message.digest .. message.accept_time end
  local function size_of_content(message) return tonumber(message.content) end
  local replies, held, _, expired = judge(contents(keys), messages_of(keys, args), args, size_of_content, known, put)
  return { held.messages, replies, expired }
end

-- How many of these ids, which are in order, the mailbox knows to have handed out. A replica that took over and had not seen the end
-- gives ids again: an acknowledgement of one beyond its mark is of an entry that was lost, never of the one that has the id now.
local function known_of(box, ids)
  local handed, count = redis.call('HGET', box.load, 'handed') or BEGINNING, #ids
  while count > 0 and before(handed, ids[count]) do count = count - 1 end
  return count
end

-- KEYS waiting, load, shares, attempts; ARGV delivery ids, each once, in order
local function acknowledge(keys, args)
  local box, found, next, count = contents(keys), {}, 1, 1
  local wanted, most = {}, known_of(box, args)
  for _, id in ipairs(args) do wanted[id] = true end
  while next <= most do
    -- Neighbours mostly; where they are none, no more is read than is asked for.
    local chunk = redis.call('XRANGE', box.waiting, args[next], args[most], 'COUNT', count)
    if #chunk == 0 then break end
    local hits = 0
    for _, entry in ipairs(chunk) do
      if wanted[entry[1]] then
        hits = hits + 1
        found[#found + 1] = entry
      end
    end
    count = hits == #chunk and math.min(2 * count, CHUNK) or 1
    local last = chunk[#chunk][1]
    while next <= most and not before(last, args[next]) do next = next + 1 end
  end
  if #found > 0 then remove(box, found) end
  return #found
end

-- KEYS waiting, load, shares, attempts. Returns how many entries there were; `last` stays, so that ids never go back.
local function empty(keys)
  local box = contents(keys)
  local count = redis.call('XLEN', box.waiting)
  if count > 0 then
    redis.call('UNLINK', box.waiting, box.shares, box.attempts)
    redis.call('HSET', box.load, 'bytes', 0)
  end
  return count
end

-- Has what is known of claims last for as long as a claim does, where nothing has been put into the mailbox.
local function keep(load, lifetime)
  if redis.call('PTTL', load) < tonumber(lifetime) then redis.call('PEXPIRE', load, lifetime) end
end

-- KEYS load; ARGV lifetime of a claim. A number for a claim, higher than those of all before.
local function number(keys, args)
  local drawn = redis.call('HINCRBY', keys[1], 'drawn', 1)
  keep(keys[1], args[1])
  return drawn
end

-- KEYS waiting, load, receiver; ARGV channel, receiver, lifetime of the claim, its number. A claim that was overtaken on its way, or
-- that comes again after a later one, displaces nobody.
local function claim(keys, args)
  local waiting, load, receiver = keys[1], keys[2], keys[3]
  local number = tonumber(args[4])
  local marks = redis.call('HMGET', load, 'handed', 'claimed')
  local handed, claimed = marks[1], tonumber(marks[2] or '0')
  if number < claimed then return { 'displaced' } end
  local again = number == claimed and redis.call('GET', receiver) == args[2]
  redis.call('SET', receiver, args[2], 'PX', args[3])
  redis.call('HSET', load, 'claimed', args[4])
  keep(load, args[3])
  if handed and not again then
    redis.call('HSET', load, 'prior', handed)
    redis.call('HDEL', load, 'current')
  end
  redis.call('SPUBLISH', args[1], 'claimed')
  local newest = redis.call('XREVRANGE', waiting, '+', '-', 'COUNT', 1)[1]
  return { 'claimed', newest and newest[1] or BEGINNING }
end

-- KEYS receiver; ARGV receiver
local function release(keys, args)
  if redis.call('GET', keys[1]) == args[1] then redis.call('DEL', keys[1]) end
  return redis.status_reply('OK')
end

-- How far a mailbox was handed out.
local function marks_of(box)
  local marks = redis.call('HMGET', box.load, 'handed', 'prior', 'current')
  return { handed = marks[1] or BEGINNING, prior = marks[2] or BEGINNING, current = marks[3] or BEGINNING }
end

-- How often an entry has been handed out, this time included. A read that is repeated under the same claim counts once.
local function attempt(box, marks, id)
  marks.fresh = marks.fresh or before(marks.prior, id)
  if marks.fresh then return 1 end
  if not before(marks.current, id) then return 1 + tonumber(redis.call('HGET', box.attempts, id) or '0') end
  local count = redis.call('HINCRBY', box.attempts, id, 1)
  if count == 1 then redis.call('PEXPIRE', box.attempts, math.max(1, redis.call('PTTL', box.waiting))) end
  return 1 + count
end

local function mark(box, marks, last)
  if not before(marks.current, last) then return end
  if before(marks.handed, last) then
    local new = redis.call('HSET', box.load, 'current', last, 'handed', last)
    if new > 0 then redis.call('PEXPIRE', box.load, math.max(1, redis.call('PTTL', box.waiting))) end
  else
    redis.call('HSET', box.load, 'current', last)
  end
end

-- Adds entries that fit to what was found.
local function collect(found, box, marks, start, room, bytes)
  local last
  while room > 0 do
    local chunk = redis.call('XRANGE', box.waiting, start, '+', 'COUNT', math.min(room, CHUNK))
    for _, entry in ipairs(chunk) do
      bytes = bytes - size_of(entry)
      if bytes < 0 and last then return last end
      last = entry[1]
      found[#found + 1] = { last, entry[2][2], entry[2][4] or '', attempt(box, marks, last), entry[2][8] }
    end
    if #chunk < CHUNK then return last end
    room, start = room - #chunk, '(' .. last
  end
  return last
end

-- KEYS waiting, load, shares, attempts, receiver; ARGV receiver, lifetime of the claim, after, most messages, most bytes, oldest.
-- Returns how many entries were too old to wait on, then those that were found.
local function read(keys, args)
  local box, receiver, after, oldest = contents(keys), keys[5], args[3], tonumber(args[6])
  local holder = redis.call('GET', receiver)
  if holder and holder ~= args[1] then return { 'displaced' } end
  -- A claim that was lost (a replica took over that had not seen it) goes to whoever reads first.
  if not holder then redis.call('SET', receiver, args[1], 'PX', args[2]) end

  local found = { 'read', trim(box, oldest) }
  local marks = marks_of(box)
  -- It was handed out further than the mailbox remembers: a replica took over that had not seen all of it. What has come since may
  -- have ids that were used before.
  if before(marks.current, after) then after = marks.current end
  local start, first = '(' .. after, string.format('%.0f', oldest) .. '-0'
  if oldest > 0 and before(after, first) then start = first end
  local last = collect(found, box, marks, start, tonumber(args[4]), tonumber(args[5]))
  if last then mark(box, marks, last) end
  return found
end

-- KEYS waiting. How many entries there are, and the accept time of the first.
local function backlog(keys)
  local first = redis.call('XRANGE', keys[1], '-', '+', 'COUNT', 1)[1]
  return { redis.call('XLEN', keys[1]), first and first[2][2] or '0' }
end

-- Out of memory, a server takes nothing in. What it has can be handed out and taken away, else it would stay so.
local function register(name, callback, ...)
  redis.register_function({ function_name = '@PREFIX@' .. name, callback = callback, flags = { ... } })
end

register('append', append)
register('foresee', foresee)
register('acknowledge', acknowledge, 'allow-oom')
register('empty', empty, 'allow-oom')
register('number', number, 'allow-oom')
register('claim', claim, 'allow-oom')
register('release', release, 'allow-oom')
register('read', read, 'allow-oom')
register('backlog', backlog, 'no-writes')
