-- open_log() returns a log's epoch, its newest offset, and the time in milliseconds since 1970; begins
-- the log if there is none. Included in every program on a log.
-- Keys: 1 the log's hash, 2 the stream of messages. Argument: an epoch for what begins.
--
-- A server that was promoted or started again may lack what the server before it had confirmed last,
-- and would give its offsets to other messages. It shows in the replication id, which every primary
-- makes anew. So with another id another epoch begins, and the log notes where the one before ended:
--
--   before     epoch 3f9a   1 2 3 4 5 6 7
--   promoted   epoch 3f9a   1 2 3 4 5      b021   6 7 8      earlier = "3f9a:5,"
--
-- Who has read up to 3f9a:5 goes on; who has read up to 3f9a:7 has read what is lost.
local function earlier_epochs() return redis.call('HGET', KEYS[1], 'earlier') or '' end
local function open_log(new_epoch)
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local info = redis.pcall('INFO', 'replication')  -- an error if the user may not ask
  local _, before_id = string.find(type(info) == 'string' and info or '', 'master_replid:', 1, true)
  local history = before_id and string.sub(info, before_id + 1, before_id + 16) or ''
  local log = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'history', 'time')
  local epoch, offset = log[1], tonumber(log[2] or 0)
  if not epoch then
    redis.call('DEL', KEYS[1], KEYS[2])
    redis.call('HSET', KEYS[1], 'epoch', new_epoch, 'offset', 0, 'history', history)
    return new_epoch, 0, now
  end
  if log[3] ~= history then
    redis.call('HSET', KEYS[1], 'history', history)
    if log[3] then
      local earlier = string.format('%s:%d,', epoch, offset) .. earlier_epochs()
      earlier = string.match(earlier, '^' .. string.rep('[^,]*,', 16)) or earlier
      epoch = new_epoch
      redis.call('HSET', KEYS[1], 'epoch', epoch, 'earlier', earlier)
    end
  end
  -- Times grow with offsets. A clock that is put back by more than a minute was wrong before.
  local last = tonumber(log[4] or 0)
  if last > now and last - now < 60000 then now = last end
  return epoch, offset, now
end
