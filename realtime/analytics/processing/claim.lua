-- Takes a processor over, unless another process has it.
-- Keys: 1 the state, 2 the lease.
-- Arguments: 1 who takes it, 2 milliseconds of the lease, 3 the definition, 4 '1' to keep the state
-- of another definition.
-- Returns nothing if another process has it, else the state.
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return nil end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if redis.call('HGET', KEYS[1], 'definition') ~= ARGV[3] then
  local before = redis.call('HMGET', KEYS[1], 'generation', 'epoch', 'taken')
  if ARGV[4] == '0' then redis.call('DEL', KEYS[1]) end
  redis.call('HSET', KEYS[1], 'definition', ARGV[3], 'generation', before[1] or 0)
  if before[2] then redis.call('HSET', KEYS[1], 'epoch', before[2], 'offset', before[3]) end
end
redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('HDEL', KEYS[1], 'sequence')
return redis.call('HGETALL', KEYS[1])
