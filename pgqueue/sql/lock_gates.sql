-- The state of gates, and what holds there now, locked in the order of their names. Times are seconds since 1970.
select g.name, coalesce(l.concurrency, case when g.scope = 'serial' then 1 end), 1 / l.rate, coalesce(l.burst, 1), g.scope = 'serial',
       g.scope = 'queue' and g.key = '', g.taken, g.waiting, g.loose, extract(epoch from g.next_at)::float8,
       case when l.paused then 'infinity'::float8 else extract(epoch from g.closed_until)::float8 end
from {schema}.gates g
left join {schema}.limits l on l.scope = g.scope and l.name = g.of and l.key = g.key
where g.name = any (%(names)s::text[])
order by g.name for update of g
