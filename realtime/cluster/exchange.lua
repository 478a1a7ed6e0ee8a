-- Writes the figures of a process, if one is named, and reads those of all that are there.
-- Keys: the processes, a sorted set by when they were last there; their figures, a hash.
-- Arguments: the process or '', its figures, seconds until a process is gone and is forgotten.
-- Returns the figures of the processes that are there.
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
local all = redis.call('HGETALL', KEYS[2])
local since = redis.call('TIME')[1] - ARGV[3]
local present = {}
for at = 1, #all, 2 do
  local last = tonumber(redis.call('ZSCORE', KEYS[1], all[at]) or 0)
  if last > since then
    present[#present + 1] = all[at + 1]
  elseif last == 0 and ARGV[1] ~= '' then
    redis.call('HDEL', KEYS[2], all[at])
  end
end
return present
