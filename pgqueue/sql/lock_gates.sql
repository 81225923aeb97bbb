-- The state of gates, and what holds there now, locked in the order of their names. Times are seconds since 1970.
with shares as materialized (
    -- Of the slots that live workers have for a queue, as many for each value of the key as there are values with jobs parked.
    select l.scope, l.name, l.key, greatest(1, ceil(all_slots.slots / greatest(1, crowd.gates)))::int as places
    from {schema}.limits l
    cross join lateral (
        select coalesce(sum((w.queues ->> l.name)::int), 0)::float8 as slots from {schema}.workers w
        where w.queues ? l.name and w.expires_at > clock_timestamp()) all_slots
    cross join lateral (
        select count(*) as gates from (
            select from {schema}.gates g where g.of = l.name and g.key = l.key and g.scope = l.scope and g.waiting > 0 limit 1000) g) crowd
    where l.fair and exists (select from {schema}.gates g where g.name = any (%(names)s::text[]) and g.of = l.name and g.scope = l.scope))
select g.name, case when g.scope = 'serial' then 1 else least(l.concurrency, s.places) end, 1 / l.rate, coalesce(l.burst, 1),
       g.scope = 'serial', g.scope = 'queue' and g.key = '', coalesce(l.fair, false), g.taken, g.waiting, g.loose,
       extract(epoch from g.next_at)::float8,
       case when l.paused then 'infinity'::float8 else extract(epoch from g.closed_until)::float8 end
from {schema}.gates g
left join {schema}.limits l on l.scope = g.scope and l.name = g.of and l.key = g.key
left join shares s on s.scope = g.scope and s.name = g.of and s.key = g.key
where g.name = any (%(names)s::text[])
order by g.name for update of g
