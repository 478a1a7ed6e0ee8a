-- include realtime.log/append.lua
-- Saves a processor's state and appends what it publishes; renews its lease.
-- Keys: 1 and 2 those of append(), 3 the state, 4 the lease.
-- Arguments: 1 as MessagePack {after, the token of the claim or of the save before; token, a new one;
-- owner and lease, who has it and milliseconds; fields to set; removed, names of fields; and, unless
-- more of the same state follows, epoch and offset to read from when the state is restored; taken,
-- the offset taken in}; then those of append() if there is anything to append.
-- Returns -1 if another process has taken it over or the state is gone, 0 if this call has been
-- carried out before, else the position of the first message that was appended, if any was.
local save = cmsgpack.unpack(ARGV[1])
local before = redis.call('HMGET', KEYS[3], 'token', 'epoch', 'taken')
if before[1] ~= save.after and before[1] ~= save.token then return -1 end
-- A write in any case, so that WAIT (min_replicas) waits for replicas to have the first call's.
redis.call('HSET', KEYS[3], 'token', save.token)
if before[1] == save.token then return 0 end
redis.call('SET', KEYS[4], save.owner, 'PX', save.lease)
if save.epoch then
  -- A process that restores a state that is behind takes in again what has been taken in before.
  local taken = save.taken
  if before[2] == save.epoch then taken = math.max(taken, tonumber(before[3] or 0)) end
  redis.call('HSET', KEYS[3], 'epoch', save.epoch, 'offset', string.format('%d', save.offset),
             'taken', string.format('%d', taken))
end
for name, value in pairs(save.fields) do redis.call('HSET', KEYS[3], name, value) end
for _, name in ipairs(save.removed) do redis.call('HDEL', KEYS[3], name) end
if #ARGV > 1 then return append() end
