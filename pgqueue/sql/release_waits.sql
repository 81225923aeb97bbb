-- blocked -> available | scheduled: jobs that wait for no child any more.
with entered as materialized (
    -- The transaction must have its id before it takes positions: the claimers' marks rely on it.
    select pg_current_xact_id(), set_config('synchronous_commit', 'off', true)),
due as materialized (
    select ctid as place, job_id from {schema}.flow_turns where turn = 'release' limit %(count)s),
over as materialized (
    select w.job_id from entered, {schema}.flow_waits w
    where w.job_id = any (array(select job_id from due)) and {schema}.flow_turn(w) = 'release'
    order by w.job_id for update of w skip locked),
free as materialized (
    select id, run_at, priority from {schema}.jobs
    where id = any (array(select job_id from over)) and state = 'blocked' and waits_for = 'children'
    order by id for update skip locked),
numbered as materialized (
    select array_agg(id order by id) as ids, array_agg(place order by id) as places
    from (select id, case when run_at <= clock_timestamp() then nextval('{schema}.jobs_position') end as place
          from (select * from free order by id) f) n),
released as (
    update {schema}.jobs j
    set (position, state) = (
            select places[n], case when places[n] is null then 'scheduled' else 'available' end
            -- The ids are sorted, so that each is found by a binary search.
            from (select places, width_bucket(j.id, ids) as n from numbered) p),
        waits_for = null
    where id = any (array(select id from free)) and state = 'blocked' and waits_for = 'children'
    returning id, queue, priority, position),
done as (
    delete from {schema}.flow_turns
    where ctid = any (array(
        select d.place from due d
        where d.job_id = any (array(select id from released))
           -- It was cancelled or deleted, or waits on; who changes that says so anew.
           or not exists (select from {schema}.jobs j where j.id = d.job_id and j.state = 'blocked' and j.waits_for = 'children')
           or not exists (select from {schema}.flow_waits w where w.job_id = d.job_id and {schema}.flow_turn(w) = 'release')))
    returning 1),
woken as (
    select pg_notify(%(channel)s, case when min(position) is null then format('scheduled %%s', queue)
                                       else format('available %%s %%s %%s', queue, priority, min(position)) end)
    from released group by queue, priority, position is null)
select (select count(*) from done), (select count(*) from woken)
