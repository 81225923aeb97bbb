-- scheduled -> available, in the order of their times.
with began as materialized (
    -- The time is read before the transaction takes its id: the promoters' marks rely on it.
    select clock_timestamp() as now, pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin,
           set_config('synchronous_commit', 'off', true)),
due as materialized (
    select id, run_at from {schema}.jobs
    where queue = %(queue)s and position is null and ready is null and waits_for is null and state = 'scheduled' and run_at <= (select now from began)
      and run_at >= coalesce(%(since)s::timestamptz, '-infinity')
    -- Locking a row takes a transaction id, which the claimers' marks want to precede the positions.
    order by run_at limit %(count)s for update skip locked),
numbered as materialized (
    select array_agg(id) as ids, array_agg(place) as places
    from (select id, nextval('{schema}.jobs_position') as place from (select id from due order by run_at, id) d) n),
promoted as (
    update {schema}.jobs
    set state = 'available', position = (select places[array_position(ids, {schema}.jobs.id)] from numbered)
    where id = any (array(select id from due)) and state = 'scheduled'
    returning priority, position),
woken as (
    select pg_notify(%(channel)s, format('available %%s %%s %%s', %(queue)s::text, priority, min(position))) from promoted group by priority)
select (select count(*) from promoted), (select count(*) from woken),
       extract(epoch from (select min(run_at) from {schema}.jobs
                           where queue = %(queue)s and position is null and ready is null and waits_for is null and state = 'scheduled' and run_at > (select now from began))
                          - clock_timestamp())::float8,
       now, case when (select count(*) from promoted) > 0 then pg_current_xact_id()::text::bigint end, xmin
from began
