-- include realtime.log/open.lua
-- append() adds messages to a log and sends them to the group of its type; returns the position of
-- the first and when that was: EPOCH:OFFSET:MILLISECONDS. Included in every program that appends.
-- Keys: those of open_log().
-- Arguments: 1 is the including program's own. 2 an epoch for a log that begins, 3 history_size,
-- 4 history_ttl, 5 the Redis channel of the group; then five for each entry: the number of messages,
-- the messages, and the group message's parts before the position, between it and the time (eight
-- bytes, seconds since 1970), and after that; or three empty strings if it is not to be sent.
local function append()
  local epoch, offset, now = open_log(ARGV[2])
  local size, ttl, channel = ARGV[3], ARGV[4], ARGV[5]
  local before, result = offset, nil
  local time = struct.pack('>d', now / 1000)
  for i = 6, #ARGV, 5 do
    local position = string.format('%s:%020d', epoch, offset + 1)
    result = result or string.format('%s:%d', position, now)
    offset = offset + ARGV[i]
    redis.call('XADD', KEYS[2], 'MINID', '~', string.format('%d', math.max(0, offset - size + 1)),
               string.format('%d-%d', offset, now), 'm', ARGV[i + 1])
    if ARGV[i + 2] ~= '' then
      local parts = {ARGV[i + 2], position, ARGV[i + 3], time, ARGV[i + 4], ARGV[i + 1]}
      redis.call('PUBLISH', channel, table.concat(parts))
    end
  end
  redis.call('HSET', KEYS[1], 'offset', string.format('%d', offset), 'time', string.format('%d', now))
  redis.call('EXPIRE', KEYS[2], ttl)
  -- Each 64 messages, remove what is too old: up to 128 entries, more than are added meanwhile.
  if math.floor((before + 1) / 64) ~= math.floor((offset + 1) / 64) then
    local expired = now - 1000 * ttl
    for i = 1, 128 do
      local id = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1][1]
      if tonumber(string.match(id, '-(%d+)')) >= expired then break end
      redis.call('XDEL', KEYS[2], id)
    end
  end
  return result
end
