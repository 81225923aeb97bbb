-- Gates where jobs are parked and that time may let go: open, and with a place where places are counted. A place that is
-- freed is handed over by whoever frees it.
select g.name
from {schema}.gates g
left join {schema}.limits l on l.scope = g.scope and l.name = g.of and l.key = g.key
where g.waiting > 0 and g.name > %(after)s and g.name <> all (%(skip)s::text[])
  and not coalesce(l.paused, false)
  and (g.closed_until is null or g.closed_until <= clock_timestamp() + make_interval(secs => %(horizon)s))
  and case when g.scope = 'serial' then g.taken < 1
           when l.concurrency is not null and not l.fair then g.taken < l.concurrency
           else true end
order by g.name limit %(count)s for update of g skip locked
