-- The state of gates, and what holds there now, locked in the order of their names. Times are seconds from `now`.
with clock as materialized (select clock_timestamp() as now)
select clock.now, g.name, coalesce(l.concurrency, case when g.scope = 'serial' then 1 end), 1 / l.rate, coalesce(l.burst, 1),
       g.scope = 'serial', g.taken, g.waiting, g.loose, extract(epoch from g.next_at - clock.now)::float8,
       case when l.paused or g.closed_until = 'infinity' then 'infinity'::float8
            else extract(epoch from g.closed_until - clock.now)::float8 end
from clock cross join {schema}.gates g
left join {schema}.limits l on l.scope = g.scope and l.name = g.of and l.key = g.key
where g.name = any (%(names)s::text[])
order by g.name for update of g
