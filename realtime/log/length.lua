-- include realtime.log/open.lua
-- Counts the messages that are retained.
-- Keys: those of open_log(). Arguments: 1 an epoch for a log that begins, 2 history_size,
-- 3 history_ttl.
--
-- Times grow with offsets, except where the server's clock was put back. So it halves the range of
-- offsets in which the first retained message is:
--
--   oldest .... expired | middle | retained .... head
local _, head, now = open_log(ARGV[1])
local oldest = now - 1000 * ARGV[3]
-- The offset from which the next entry is retained, *from* or one after; false if it has expired.
local function begins(from)
  local entry = redis.call('XRANGE', KEYS[2], string.format('%d', from), '+', 'COUNT', 1)[1]
  if not entry then return head + 1 end
  local last, time = string.match(entry[1], '(%d+)-(%d+)')
  if tonumber(time) < oldest then return false end
  local kind, high, low = string.byte(entry[2][2], 1, 3)  -- of a MessagePack array
  return math.max(from, last - (kind == 0xdc and high * 256 + low or kind - 0x90) + 1)
end
local expired, retained = math.max(0, head - ARGV[2]) + 1, head + 1
local first = begins(expired)
while not first and retained - expired > 1 do
  local middle = math.floor((expired + retained) / 2)
  if begins(middle) then retained = middle else expired = middle end
end
return math.max(0, head - (first or retained) + 1)
