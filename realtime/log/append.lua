-- append() adds messages to a log and sends them to the group of its type; returns the position of
-- the first. Included in every program that appends.
-- Keys: 1 the hash of epoch and newest offset, 2 the stream of messages.
-- Arguments: 1 is the including program's own. 2 an epoch for a log that begins, 3 history_size,
-- 4 history_ttl, 5 milliseconds since 1970, 6 the Redis channel of the group; then four for each
-- entry: the number of messages, the messages, and the group message's parts around the position,
-- or two empty strings if it is not to be sent.
local function append()
  local epoch = redis.call('HGET', KEYS[1], 'epoch')
  if not epoch then
    epoch = ARGV[2]
    redis.call('HSET', KEYS[1], 'epoch', epoch)
    redis.call('DEL', KEYS[2])
  end
  local size, ttl, now, channel = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
  local position, before, last
  for i = 7, #ARGV, 4 do
    last = redis.call('HINCRBY', KEYS[1], 'offset', ARGV[i])
    local first = last - ARGV[i] + 1
    redis.call('XADD', KEYS[2], 'MINID', '~', string.format('%d', math.max(0, last - size + 1)),
               string.format('%d-%s', last, now), 'm', ARGV[i + 1])
    local here = epoch .. ':' .. string.format('%020d', first)
    position = position or here
    before = before or first
    if ARGV[i + 3] ~= '' then
      redis.call('PUBLISH', channel, ARGV[i + 2] .. here .. ARGV[i + 3] .. ARGV[i + 1])
    end
  end
  redis.call('EXPIRE', KEYS[2], ttl)
  -- Each 64 messages, remove what is too old: up to 128 entries, more than are added meanwhile.
  if math.floor(before / 64) ~= math.floor((last + 1) / 64) then
    local expired = now - 1000 * ttl
    for i = 1, 128 do
      local id = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1][1]
      if tonumber(string.match(id, '-(%d+)')) >= expired then break end
      redis.call('XDEL', KEYS[2], id)
    end
  end
  return position
end
