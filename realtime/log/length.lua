-- Counts the messages that are retained.
-- Keys: the hash of epoch and newest offset, the stream of messages.
-- Arguments: 1 history_size, 2 the oldest time that is retained, in milliseconds.
--
-- Times grow with offsets, except for how publishers' clocks differ. So it halves the range of
-- offsets in which the first retained message is:
--
--   oldest .... expired | middle | retained .... head
local head = tonumber(redis.call('HGET', KEYS[1], 'offset') or 0)
-- The offset from which the next entry is retained, *from* or one after; false if it has expired.
local function begins(from)
  local entry = redis.call('XRANGE', KEYS[2], string.format('%d', from), '+', 'COUNT', 1)[1]
  if not entry then return head + 1 end
  local last, time = string.match(entry[1], '(%d+)-(%d+)')
  if tonumber(time) < tonumber(ARGV[2]) then return false end
  local kind, high, low = string.byte(entry[2][2], 1, 3)  -- of a MessagePack array
  return math.max(from, last - (kind == 0xdc and high * 256 + low or kind - 0x90) + 1)
end
local expired, retained = math.max(0, head - ARGV[1]) + 1, head + 1
local first = begins(expired)
while not first and retained - expired > 1 do
  local middle = math.floor((expired + retained) / 2)
  if begins(middle) then retained = middle else expired = middle end
end
return math.max(0, head - (first or retained) + 1)
