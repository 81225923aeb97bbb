-- available -> available, at a sooner priority: jobs of one queue that have waited, one priority for each time `every`, down to `floor`.
with time as materialized (
    select clock_timestamp() as now, extract(epoch from %(every)s::interval)::float8 as every, set_config('synchronous_commit', 'off', true)),
lane as materialized (select priority, mark from {schema}.lanes_of(%(queue)s)),
used as materialized (
    -- A limit keeps the planner from joining whole indexes.
    select l.priority, l.mark from lane l cross join lateral (
        select from {schema}.jobs j
        where j.queue = %(queue)s and j.priority = l.priority and j.position > l.mark and j.position is not null limit 1) one),
target as materialized (select coalesce(%(floor)s::int, min(priority)) as floor from used),
waiting as materialized (
    -- The first of each lane became available first.
    select j.id, l.priority, j.position, j.aged, greatest(0, extract(epoch from time.now - greatest(j.run_at, j.created_at))::float8) as waited
    from time, target, used l cross join lateral (
        select id, position, coalesce(aged, 0) as aged, run_at, created_at from {schema}.jobs
        where queue = %(queue)s and priority = l.priority and position > l.mark and position is not null and state = 'available'
        order by position limit %(count)s) j
    where l.priority > target.floor),
due as materialized (
    -- Those of one lane stay in its order, also where a clock says otherwise.
    select w.id, w.priority, w.position, w.aged, min(w.waited) over (partition by w.priority order by w.position) as waited,
           greatest(target.floor, w.priority + w.aged - floor(w.waited / time.every)) as target
    from waiting w, time, target where w.waited >= time.every * (w.aged + 1)
    order by waited desc, w.priority desc, w.position limit %(count)s),
locked as materialized (
    -- Only what is to move: a claim passes by what somebody has locked.
    select id, serial_key from {schema}.jobs
    where id = any (array(select id from due)) and state = 'available' and queue = %(queue)s
      -- Not one that has just been moved by another worker.
      and position = any (array(select position from due)) for update skip locked),
-- Nor does one move before another of its serial key, which somebody has.
behind as materialized (
    select l.id from locked l join due d using (id) where l.serial_key is not null and exists (
        select from {schema}.jobs e
        where e.queue = %(queue)s and e.serial_key = l.serial_key and e.position is not null and e.state = 'available'
          and (e.priority, e.position) < (d.priority, d.position) and not (e.id = any (array(select id from locked))))),
placed as materialized (
    select o.id, o.target, o.aged, nextval('{schema}.jobs_position') as place
    from (select d.id, d.target, d.priority + d.aged - d.target as aged from due d join locked l using (id)
          where d.id not in (select id from behind) order by d.waited desc, d.priority desc, d.position) o),
numbered as materialized (
    select array_agg(id order by id) as ids, array_agg(target order by id) as targets, array_agg(aged order by id) as aged,
           array_agg(place order by id) as places from placed),
moved as (
    update {schema}.jobs
    set (priority, position, aged) = (
        select targets[n], places[n], numbered.aged[n] from numbered, lateral (select width_bucket(id, ids) as n offset 0) one)
    where id = any (array(select id from placed)) and state = 'available'
    returning priority, position),
told as (
    select priority, min(position) as position, count(*) as jobs from moved group by priority
    union all
    -- While they were locked, a claim may have passed by.
    select d.priority, min(d.position), 0 from due d where d.id in (select id from behind) group by d.priority),
woken as (
    select pg_notify(%(channel)s, format('available %%s %%s %%s', %(queue)s::text, priority, position)) from told)
select told.priority, told.position, told.jobs from told cross join (select count(*) from woken) w
