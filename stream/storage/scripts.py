"""The scripts that Redis runs: the load and the commit of a shard, each atomic."""

from __future__ import annotations

from typing import Final

# Lua's unpack takes fewer than 8,000 values. The arguments and the user's permissions are checked before the first
# write, because Redis doesn't undo the writes of a script that fails. Before 7.0 Redis doesn't tell the permissions.
_KEYS: Final = """
local head, states, due, customers, tombstones, pieces = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local function stored()
  return {
    redis.call('HLEN', states), redis.call('ZCARD', customers), redis.call('ZCARD', due),
    redis.call('HLEN', tombstones), redis.call('HLEN', pieces)
  }
end
"""

# Answers 0 where the head is another; with what the other keys hold where that isn't what the head counts (ARGV[3];
# empty: it counts nothing); else with the text of the new counts, which the new head gets.
COMMIT: Final = (
    _KEYS
    + """
local counts = {}
local want = 13
for i = 1, 10 do
  counts[i] = tonumber(ARGV[3 + i])
  if counts[i] == nil then return redis.error_reply('ERR segstream: a count is missing') end
  want = want + counts[i]
end
if #ARGV ~= want then return redis.error_reply('ERR segstream: ' .. #ARGV .. ' arguments, not ' .. want) end
if string.sub(ARGV[2], -5) ~= 'null}' then return redis.error_reply('ERR segstream: the head has counts') end
for _, write in ipairs({
  {'set', head, ''}, {'hset', states, '', ''}, {'hdel', states, ''}, {'zadd', customers, '0', ''},
  {'zrem', customers, ''}, {'zadd', due, '0', ''}, {'zrem', due, ''}, {'hset', tombstones, '', ''},
  {'hdel', tombstones, ''}, {'hset', pieces, '', ''}, {'hdel', pieces, ''}
}) do
  if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(write)) then
    return redis.error_reply(
      "NOPERM This user has no permissions to run the '" .. write[1] .. "' command on " .. write[2]
    )
  end
end
local now = redis.call('GET', head)
if (now or '') ~= ARGV[1] then return 0 end
local found = stored()
if ARGV[3] ~= '' and ARGV[3] ~= table.concat(found, ',') then return found end
local at = 14
local function each(n, f)
  local stop = at + n
  while at < stop do
    local last = math.min(at + 5999, stop - 1)
    f(at, last)
    at = last + 1
  end
end
each(counts[1], function(i, j) redis.call('HSET', states, unpack(ARGV, i, j)) end)
each(counts[2], function(i, j) redis.call('ZADD', customers, unpack(ARGV, i, j)) end)
each(counts[3], function(i, j) redis.call('ZADD', due, 'LT', unpack(ARGV, i, j)) end)
each(counts[4], function(i, j) redis.call('ZADD', due, unpack(ARGV, i, j)) end)
each(counts[5], function(i, j) redis.call('ZREM', due, unpack(ARGV, i, j)) end)
each(counts[6], function(i, j)
  redis.call('HDEL', states, unpack(ARGV, i, j))
  redis.call('ZREM', customers, unpack(ARGV, i, j))
  redis.call('ZREM', due, unpack(ARGV, i, j))
end)
each(counts[7], function(i, j) redis.call('HDEL', tombstones, unpack(ARGV, i, j)) end)
each(counts[8], function(i, j) redis.call('HSET', tombstones, unpack(ARGV, i, j)) end)
each(counts[9], function(i, j) redis.call('HSET', pieces, unpack(ARGV, i, j)) end)
each(counts[10], function(i, j) redis.call('HDEL', pieces, unpack(ARGV, i, j)) end)
local kept = stored()
if kept[5] == 0 then kept[5] = nil end
local counted = '[' .. table.concat(kept, ',') .. ']}'
redis.call('SET', head, string.sub(ARGV[2], 1, -6) .. counted)
return counted
"""
)

# The head, and what the other keys hold.
HEAD: Final = (
    _KEYS
    + """
local found = stored()
table.insert(found, 1, redis.call('GET', head))
return found
"""
)

DUE: Final = """
local found = redis.call('ZRANGE', KEYS[1], '-inf', '(' .. ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
local after = redis.call('ZRANGE', KEYS[1], ARGV[1], '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
if #found == 0 then return {found, found, after} end
local names = {}
for i = 1, #found, 2 do names[#names + 1] = found[i] end
return {found, redis.call('HMGET', KEYS[2], unpack(names)), after}
"""
