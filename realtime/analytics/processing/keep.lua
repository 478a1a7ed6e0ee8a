-- Keeps the states of the processors that there are, and lets those of others expire.
-- Keys: 1 the names of processors that have a state.
-- Arguments: 1 seconds until a state expires, 2 what is before the names in the states' keys, then
-- the names of the processors that there are.
local is_there = {}
for i = 3, #ARGV do
  is_there[ARGV[i]] = true
  redis.call('SADD', KEYS[1], ARGV[i])
  redis.call('PERSIST', ARGV[2] .. ARGV[i])
end
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if not is_there[name] then
    redis.call('EXPIRE', ARGV[2] .. name, ARGV[1])
    redis.call('SREM', KEYS[1], name)
  end
end
