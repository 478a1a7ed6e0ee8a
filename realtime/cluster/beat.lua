-- Notes that a member is there, and lists all members.
-- Keys: the members, a sorted set by when they were last there.
-- Arguments: the member, seconds until a member is gone, seconds until it is forgotten.
-- Returns 1 if the others may have taken the member for gone, else 0; then the members.
local now = tonumber(redis.call('TIME')[1])
local last = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[3])
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now - ARGV[2], '+inf')
local was_gone = not last or now - last >= tonumber(ARGV[2])
table.insert(members, 1, was_gone and 1 or 0)
return members
