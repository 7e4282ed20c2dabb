-- One edge tells of buckets that all edges share, and learns how full they are and how many edges there are.
--   KEYS: the set of edges, then a bucket each.
--   ARGV: the edge, how long an edge counts that says nothing (us), 1 if it leaves, the time in which such a bucket fills (us); then, for each bucket, what was
--   taken from it (us, as time to fill) and the least moment at which it will be full (us on this server's clock).
-- Answers this server's time (us), the number of edges, and for each bucket the moment at which it will be full (us).
local edges, time = KEYS[1], redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local silence, whole = tonumber(ARGV[2]), tonumber(ARGV[4])
local function whole_number(value) return string.format('%.0f', value) end

if ARGV[3] == '1' then
    redis.call('ZREM', edges, ARGV[1])
else
    redis.call('ZADD', edges, whole_number(now), ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', edges, '-inf', whole_number(now - silence))
-- The clock was set back.
redis.call('ZREMRANGEBYSCORE', edges, whole_number(now + silence), '+inf')
redis.call('PEXPIRE', edges, whole_number(silence / 1000))
local count = redis.call('ZCARD', edges)

-- Every edge may have emptied a bucket before it heard of the others. What is further ahead was written under another clock.
local latest = now + math.max(count, 1) * (whole + 2000000)
local answer = { now, count }
for i = 2, #KEYS do
    local taken, least = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
    local full_at = tonumber(redis.call('GET', KEYS[i]) or 0)
    full_at = math.min(math.max(full_at + taken, least), latest)
    if full_at > now then
        redis.call('SET', KEYS[i], whole_number(full_at), 'PX', whole_number(math.ceil((full_at - now) / 1000)))
    end
    answer[i + 1] = full_at
end
return answer
