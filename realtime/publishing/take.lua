-- include realtime.log/append.lua
-- Appends numbered messages, unless the log has any of them.
-- Keys: 1 and 2 those of append(); then bitmaps of the numbers that the log has.
-- Arguments: 1 as MessagePack {ttl = seconds to keep the bitmaps, bits = for each message the place
-- of its bitmap among the keys and its bit in it}; then those of append().
-- Returns what append() returns; or which of the messages, counted from 1, the log has already.
local taken = cmsgpack.unpack(ARGV[1])
local present = {}
for i, bit in ipairs(taken.bits) do
  if redis.call('GETBIT', KEYS[bit[1]], bit[2]) == 1 then present[#present + 1] = i end
end
if #present > 0 then
  -- A write, so that WAIT (min_replicas) waits for replicas to have what the log has already.
  for i = 3, #KEYS do redis.call('EXPIRE', KEYS[i], taken.ttl) end
  return present
end
local position = append()
for _, bit in ipairs(taken.bits) do redis.call('SETBIT', KEYS[bit[1]], bit[2], 1) end
for i = 3, #KEYS do redis.call('EXPIRE', KEYS[i], taken.ttl) end
return position
