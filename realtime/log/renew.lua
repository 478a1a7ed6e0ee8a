-- Begins a new epoch if the log has lost the message at a position.
-- Keys: the log's hash, the stream of messages.
-- Arguments: 1 the new epoch, 2 and 3 the position's epoch and offset.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
if head[1] == ARGV[2] and tonumber(head[2]) < tonumber(ARGV[3]) then
  redis.call('HDEL', KEYS[1], 'earlier')
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'offset', 0)
  redis.call('DEL', KEYS[2])
end
