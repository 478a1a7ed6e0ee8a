-- include realtime.log/open.lua
-- Reads messages after an offset; begins the log if there is none.
-- Keys: those of open_log().
-- Arguments: 1 an epoch for a log that begins, 2 the offset after which to read, 3 history_size,
-- 4 history_ttl, 5 and 6 the most messages and bytes, which the last entry may pass.
-- Returns epoch, newest offset, first offset that could be read, time in milliseconds, earlier
-- epochs; then the ids and bodies of entries.
local epoch, head, now = open_log(ARGV[1])
local oldest = now - 1000 * ARGV[4]
local from = math.max(tonumber(ARGV[2]), head - ARGV[3]) + 1
local result = {epoch, head, from, now, earlier_epochs()}
local left, room = tonumber(ARGV[5]), tonumber(ARGV[6])
while left > 0 and room > 0 and from <= head do
  local part = redis.call('XRANGE', KEYS[2], string.format('%d', from), '+', 'COUNT', 16)
  for _, entry in ipairs(part) do
    local last, time = string.match(entry[1], '(%d+)-(%d+)')
    -- What follows a message that is retained is retained too, should the clock have been put back.
    local is_retained = #result > 5 or tonumber(time) >= oldest
    if is_retained and left > 0 and room > 0 then
      result[#result + 1] = entry[1]
      result[#result + 1] = entry[2][2]
      room = room - #entry[2][2]
      left = left - (last - from + 1)
    end
    from = last + 1
  end
  if #part < 16 then break end
end
return result
