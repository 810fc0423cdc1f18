-- One step of a waiting room that several gateways share; the rules are those of core/traffic's `Room`.
-- What differs: of those who were called, each has a time of its own until which to come, so that no claim
-- bits are kept.
--
-- KEYS: counters, who was called (number by its end), who is inside (epoch:number by its end), gateways.
-- ARGV: step, gateway, admit, period_ms, active, session_ms, claim_ms, waiting, epoch of a new room,
--       and of a visitor: epoch, number.
-- Answers: verdict, number, epoch, issued, called, places taken, first end of a session where all are taken,
--          called in vain since the last step, gateways.
local step, gateway = ARGV[1], ARGV[2]
local admit, period, active = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local session, claim, waiting = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local visitor, number = tonumber(ARGV[10]), tonumber(ARGV[11])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local burst = math.max(admit * 1000, period)
local function member(epoch, number) return string.format('%.0f:%.0f', epoch, number) end

local kept = redis.call('HMGET', KEYS[1], 'epoch', 'issued', 'called', 'credit', 'returned', 'now')
local epoch, issued, called = tonumber(kept[1] or ''), tonumber(kept[2] or ''), tonumber(kept[3] or '')
local credit, returned, last = tonumber(kept[4] or ''), tonumber(kept[5] or ''), tonumber(kept[6] or '')
if not (epoch and issued and called and credit and returned and last) then
  -- A life of its own: no number is taken for one of a life before. Nor does beginning anew earn a turn.
  epoch, issued, called, credit, returned, last = tonumber(ARGV[9]), 0, 0, 0, 0, now
  redis.call('DEL', KEYS[2])
end

-- The clock of another server may be behind.
local passed = math.max(0, now - last)
now = math.max(now, last)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
local missed = redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local occupied = redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[3])
local earned = math.min(passed * admit, burst)
credit = math.min(credit + earned, burst)
returned = math.min(returned + missed * period, burst)
if issued == called then
  returned = 0
else
  local again = math.min(returned, earned)
  local count = math.min(math.floor((credit + again) / period), issued - called, active - occupied, 5000)
  if count > 0 then
    for one = called + 1, called + count do
      redis.call('ZADD', KEYS[2], now + claim, string.format('%.0f', one))
    end
    called, occupied = called + count, occupied + count
    local spent = math.min(count * period, credit)
    returned = math.max(0, returned - (count * period - spent))
    credit = credit - spent
  end
end

local verdict = 0
local function enter(epoch, number, length)
  redis.call('ZADD', KEYS[3], now + length, member(epoch, number))
end
if step == 'arrive' then
  if issued == called and credit >= period and occupied < active then
    credit = credit - period
    issued, occupied = issued + 1, occupied + 1
    called, number, verdict = issued, issued, 1
    enter(epoch, number, math.min(session, claim))
  elseif issued - called >= waiting then
    verdict = 3
  else
    issued = issued + 1
    number, verdict = issued, 2
  end
elseif step == 'claim' then
  if visitor ~= epoch or number > issued then
    verdict = 8
  elseif number > called then
    verdict = 4
  elseif redis.call('ZREM', KEYS[2], string.format('%.0f', number)) == 1 then
    verdict = 1
    enter(epoch, number, session)
  else
    local until_ms = redis.call('ZSCORE', KEYS[3], member(epoch, number))
    -- It has just begun, or was just renewed.
    verdict = not until_ms and 7 or (until_ms - session + 10000 > now and 5 or 6)
  end
elseif step == 'renew' then
  -- One that is not known is one of a room that was lost, or was let in while nothing was reached.
  local is_known = redis.call('ZSCORE', KEYS[3], member(visitor, number))
  if is_known or redis.call('ZCARD', KEYS[3]) < 2000000 then
    enter(visitor, number, session)
    occupied = occupied + (is_known and 0 or 1)
  end
end

redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch), 'issued', string.format('%.0f', issued),
  'called', string.format('%.0f', called), 'credit', string.format('%.0f', credit),
  'returned', string.format('%.0f', returned), 'now', string.format('%.0f', now))
local gateways = 0
if step == 'look' then
  redis.call('ZADD', KEYS[4], now, gateway)
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - 5000)
  gateways = redis.call('ZCARD', KEYS[4])
  -- A room that no gateway has any more is forgotten as late as its tickets.
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, 86400000 + session)
  end
end
local first = 0
if occupied >= active then
  first = math.floor(tonumber(redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] or 0))
end
return { verdict, number, epoch, issued, called, occupied, first, missed, gateways }
