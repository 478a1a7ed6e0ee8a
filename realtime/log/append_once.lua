-- include realtime.log/append.lua
-- Appends, unless the same call has done so in this epoch; returns the first message's position.
-- Keys: 1 and 2 those of append(), 3 the position that this call returned.
-- Arguments: 1 seconds to remember this call, then those of append().
local earlier = redis.call('GET', KEYS[3])
if earlier and string.match(earlier, '^(.*):') == redis.call('HGET', KEYS[1], 'epoch') then
  return earlier
end
local position = append()
redis.call('SET', KEYS[3], position, 'EX', ARGV[1])
return position
