-- Lets the states of processors that are gone expire; a claim stops that.
-- Keys: 1 the names of processors that have a state.
-- Arguments: 1 seconds, 2 what is before the names in the states' keys, then the names of processors
-- that are not gone.
local is_there = {}
for i = 3, #ARGV do is_there[ARGV[i]] = true end
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if not is_there[name] then
    redis.call('EXPIRE', ARGV[2] .. name, ARGV[1])
    redis.call('SREM', KEYS[1], name)
  end
end
