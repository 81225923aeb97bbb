-- Gates where a place has been freed that a parked job waits for. Where the limit of a whole queue was reached nobody is parked:
-- workers that are idle are told.
with freed as materialized (select distinct gate from {schema}.freed_places),
told as (
    select pg_notify(%(channel)s, format('ready %%s', g.of))
    from freed join {schema}.gates g on g.name = freed.gate
    join {schema}.limits l on l.scope = g.scope and l.name = g.of and l.key = g.key
    where g.scope = 'queue' and g.key = '' and g.taken >= l.concurrency
      and exists (select from {schema}.idle_workers w where w.queue = g.of))
select gate, (select count(*) from told)
from (select) one left join lateral (
    select gate from freed
    where %(all_gates)s or exists (select from {schema}.gates g where g.name = freed.gate and g.waiting > 0)) f on true
