-- scheduled -> available, in the order of their times.
with entered as materialized (select pg_current_xact_id(), set_config('synchronous_commit', 'off', true)),
due as materialized (
    select id, run_at from {schema}.jobs
    -- As a subquery the time is read once, and bounds the index scan.
    where queue = %(queue)s and position is null and state = 'scheduled' and run_at <= (select clock_timestamp())
    order by run_at limit %(count)s for update skip locked),
numbered as materialized (
    select array_agg(id) as ids, array_agg(place) as places
    from (select d.id, nextval('{schema}.jobs_position') as place from entered, (select id from due order by run_at, id) d) n),
promoted as (
    update {schema}.jobs
    set state = 'available', position = (select places[array_position(ids, {schema}.jobs.id)] from numbered)
    where id = any (array(select id from due)) and state = 'scheduled'
    returning priority, position),
woken as (
    select pg_notify(%(channel)s, format('available %%s %%s %%s', %(queue)s::text, priority, min(position))) from promoted group by priority)
select (select count(*) from promoted), (select count(*) from woken),
       extract(epoch from (select min(run_at) from {schema}.jobs
                           where queue = %(queue)s and position is null and state = 'scheduled' and run_at > (select clock_timestamp()))
                          - clock_timestamp())::float8
