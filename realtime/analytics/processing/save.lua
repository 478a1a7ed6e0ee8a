-- include realtime.log/append.lua
-- Saves a processor's state and appends what it publishes.
-- Keys: 1 and 2 those of append(), 3 the state.
-- Arguments: 1 as MessagePack {generation; sequence, the number of this call in the generation;
-- epoch and offset to read from when the state is restored; taken, the offset taken in; ttl, seconds
-- to keep the state; fields to set; removed, names of fields}; then those of append() if there is
-- anything to append.
-- Returns -1 for an old generation, 0 if this call has been carried out before, else the position of
-- the first message that was appended, if any was.
local save = cmsgpack.unpack(ARGV[1])
local before = redis.call('HMGET', KEYS[3], 'generation', 'sequence', 'epoch', 'taken')
if tonumber(before[1] or 0) ~= save.generation then return -1 end
if tonumber(before[2] or 0) >= save.sequence then return 0 end
-- A process that restores a state that is behind takes in again what has been taken in before.
local taken = save.taken
if before[3] == save.epoch then taken = math.max(taken, tonumber(before[4] or 0)) end
redis.call('HSET', KEYS[3], 'sequence', save.sequence, 'epoch', save.epoch,
           'offset', string.format('%d', save.offset), 'taken', string.format('%d', taken))
redis.call('EXPIRE', KEYS[3], save.ttl)
for name, value in pairs(save.fields) do redis.call('HSET', KEYS[3], name, value) end
for _, name in ipairs(save.removed) do redis.call('HDEL', KEYS[3], name) end
if #ARGV > 1 then return append() end
