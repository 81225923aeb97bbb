-- available | scheduled | blocked -> available | scheduled, at another time; what waits for children goes on to. Running jobs are left alone.
with entered as materialized (select pg_current_xact_id()),
time as (select coalesce(%(run_at)s::timestamptz, clock_timestamp() + make_interval(secs => %(delay)s)) as due),
was as materialized (
    select j.id, j.ready, nullif(j.waits_for, 'children') as waits_for, j.waits_for is not distinct from 'children' as is_parent, j.places, j.attempt from entered, {schema}.jobs j
    where j.id = any (%(ids)s::bigint[]) and j.state = any (%(states)s::text[]) order by j.id for update of j),
moved as (
    update {schema}.jobs j
    set run_at = time.due, state = case when was.is_parent then 'blocked' when time.due <= clock_timestamp() then 'available' else 'scheduled' end,
        -- Who is to wait again does so at its own priority.
        priority = case when time.due <= clock_timestamp() then j.priority else j.priority + coalesce(j.aged, 0) end,
        aged = case when time.due <= clock_timestamp() then j.aged end,
        position = case when was.is_parent then null when time.due <= clock_timestamp() then coalesce(j.position, nextval('{schema}.jobs_position')) end,
        -- It has to pass its limits again. Who has begun once keeps its serial key until it has ended, redriven or not.
        ready = null, waits_for = case when was.is_parent then 'children' end, places = {schema}.places_kept(was.places, was.attempt, was.waits_for)
    from was, time where j.id = was.id and j.state <> 'running'
    returning j.id, j.state, j.queue, j.priority, j.position),
freed as (
    insert into {schema}.freed_places (gate, loose, places)
    select f.gate, f.loose, f.places
    from was, {schema}.places_freed(was.places, {schema}.places_kept(was.places, was.attempt, was.waits_for), was.waits_for, was.ready) f returning 1),
woken as (
    select pg_notify(%(channel)s, case when position is null then format('scheduled %%s', queue)
                                       else format('available %%s %%s %%s', queue, priority, position) end) from moved where state <> 'blocked'
    union all
    select pg_notify(%(channel)s, 'limits') from freed)
select moved.id from moved cross join (select count(*) from woken) w
