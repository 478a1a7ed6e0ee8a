-- Takes a processor over, unless another process has it.
-- Keys: 1 the state, 2 the lease.
-- Arguments: 1 who takes it, 2 milliseconds of the lease, 3 the definition, 4 '1' to keep the state
-- of another definition, 5 a new token.
-- Returns nothing if another process has it, else the epoch and offset after which to read, if any.
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return nil end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if redis.call('HGET', KEYS[1], 'definition') ~= ARGV[3] then
  local before = redis.call('HMGET', KEYS[1], 'epoch', 'taken')
  if ARGV[4] == '0' then redis.call('UNLINK', KEYS[1]) end
  redis.call('HSET', KEYS[1], 'definition', ARGV[3])
  if before[1] then redis.call('HSET', KEYS[1], 'epoch', before[1], 'offset', before[2]) end
end
redis.call('HSET', KEYS[1], 'token', ARGV[5])
-- A process of an earlier version that had it saves by these.
redis.call('HDEL', KEYS[1], 'generation', 'sequence')
redis.call('PERSIST', KEYS[1])
return redis.call('HMGET', KEYS[1], 'epoch', 'offset')
