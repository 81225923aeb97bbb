-- Gates that say something else than the jobs do, and what the jobs say.
with held as (
    select place as gate, count(*)::int as jobs
    from (select places from {schema}.jobs where places is not null
          union all select places from {schema}.failed_jobs where places is not null) j, unnest(j.places) place group by place),
parked as (
    select waits_for as gate, count(*)::int as jobs from {schema}.jobs
    where waits_for is not null and ready is null and state = 'blocked' group by waits_for),
let_go as (
    select waits_for as gate, count(*)::int as jobs from {schema}.jobs
    where waits_for is not null and ready is not null group by waits_for),
-- Of jobs that were cancelled: they are freed in a moment.
pending as (
    select gate, sum(places)::int as places, (count(*) filter (where loose))::int as loose from {schema}.freed_places group by gate),
counted as (
    select g.name, g.taken, g.waiting, g.loose,
           -- Without a number of places nobody counts them.
           case when g.scope = 'serial' or l.concurrency is not null or l.fair then coalesce(held.jobs, 0) + coalesce(pending.places, 0)
                else g.taken end as held,
           coalesce(parked.jobs, 0) as parked, coalesce(let_go.jobs, 0) + coalesce(pending.loose, 0) as let_go
    from {schema}.gates g
    left join {schema}.limits l on l.scope = g.scope and l.name = g.of and l.key = g.key
    left join held on held.gate = g.name
    left join parked on parked.gate = g.name
    left join let_go on let_go.gate = g.name
    left join pending on pending.gate = g.name
    where %(gates)s::text[] is null or g.name = any (%(gates)s::text[]))
select * from counted where (taken, waiting, loose) <> (held, parked, let_go) order by name
