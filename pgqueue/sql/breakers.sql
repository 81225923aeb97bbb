-- Breakers, these or all: what they are, how they are, and what they have seen within their time.
with time as materialized (select clock_timestamp() as now)
select b.scope, b.name, b.failures, b.ratio, b.minimum, b.within, b.open_for, b.cap, b.errors, b.declared is not null,
       extract(epoch from b.open_until)::float8, b.trials, extract(epoch from time.now)::float8, seen.failures, seen.attempts,
       b.opened_at, b.reason, coalesce(g.waiting + g.loose, 0),
       -- The job that is to be tried, while nobody has claimed it: it has the place.
       case when b.open_until is not null and g.loose > 0 then (
           select min(j.ready) from {schema}.jobs j
           where j.ready is not null and j.waits_for = g.name and j.state = 'available' and g.name = any (j.places)) end
from time cross join {schema}.breakers b
cross join lateral (
    select coalesce(sum(c.failures), 0)::bigint as failures, coalesce(sum(c.attempts), 0)::bigint as attempts from {schema}.breaker_counts c
    where c.scope = b.scope and c.name = b.name and c.at > greatest(time.now - make_interval(secs => b.within), b.counted_from)) seen
left join {schema}.gates g on g.name = format('%%s:%%s:breaker:breaker', b.scope, b.name)
where %(names)s::text[] is null or b.scope || ':' || b.name = any (%(names)s::text[])
order by b.scope, b.name
