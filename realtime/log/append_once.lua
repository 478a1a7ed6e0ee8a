-- include realtime.log/append.lua
-- Appends, unless the same call has done so in this log; returns what append() returns.
-- Keys: 1 and 2 those of append(), 3 what this call returned.
-- Arguments: 1 seconds to remember this call, then those of append().
local before = redis.call('GET', KEYS[3])
if before then
  local epoch = open_log(ARGV[2])
  local its_epoch = string.match(before, '^(%w+):')
  if its_epoch == epoch or string.find(earlier_epochs(), its_epoch .. ':', 1, true) then
    -- A write, so that WAIT (min_replicas) waits for replicas to have the first call's.
    redis.call('HSET', KEYS[1], 'epoch', epoch)
    return before
  end
end
local result = append()
redis.call('SET', KEYS[3], result, 'EX', ARGV[1])
return result
