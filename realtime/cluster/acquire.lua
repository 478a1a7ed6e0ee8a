-- Adds a connection to those of a holder, if there is room.
-- Keys: the holder's connections, a set; the processes, a sorted set by when they were last there.
-- Arguments: the connection, its process, the limit, seconds until a process is gone, seconds to
-- keep the set. A member of the set is a connection's id (36 characters), a space, its process.
-- Returns 1 if there was room, else 0.
local now = tonumber(redis.call('TIME')[1])
local member = ARGV[1] .. ' ' .. ARGV[2]
local count = 0
for _, other in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local process = string.sub(other, 38)
  local last = redis.call('ZSCORE', KEYS[2], process)
  if process ~= ARGV[2] and (not last or now - last >= tonumber(ARGV[4])) then
    redis.call('SREM', KEYS[1], other)
  elseif other ~= member then
    count = count + 1
  end
end
if count >= tonumber(ARGV[3]) then return 0 end
redis.call('SADD', KEYS[1], member)
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
