-- Keeps a lease or gives it up.
-- Keys: 1 the lease. Arguments: 1 who has it, 2 its milliseconds, 0 to give it up.
-- Returns 1 if that process had it, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
