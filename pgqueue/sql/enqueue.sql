-- new -> available | scheduled, or blocked where it waits for others. A job whose key is held by a live job comes back with created = false.
with entered as materialized (
    -- The transaction must have its id before it takes positions: the claimers' marks rely on it.
    select pg_current_xact_id()),
given as (
    select g.*, coalesce(g.queue, t.queue, 'default') as lane, t.priority as task_priority, t.max_attempts as task_attempts,
           coalesce(g.given_key, case when t.unique_key is not null then {schema}.fill_key(t.unique_key, g.args::jsonb) end) as key,
           coalesce(g.given_serial, case when t.serial_key is not null then {schema}.fill_key(t.serial_key, g.args::jsonb) end) as serial
    from unnest(%(queues)s::text[], %(tasks)s::text[], %(args)s::text[], %(priorities)s::int[], %(run_ats)s::timestamptz[],
                %(delays)s::float8[], %(max_attempts)s::int[], %(keys)s::text[], %(serial_keys)s::text[], %(options)s::text[], %(headers)s::text[],
                %(tags)s::text[], %(flows)s::bigint[], %(waits)s::boolean[])
         with ordinality as g (queue, task, args, priority, run_at, delay, max_attempts, given_key, given_serial, options, headers, tags,
                               flow_id, waits, n)
    left join {schema}.tasks t on t.name = g.task),
resolved as (
    select g.*, coalesce(g.priority, g.task_priority, q.priority, d.priority, 0) as rank,
           coalesce(g.run_at, clock_timestamp() + make_interval(secs => g.delay), clock_timestamp()) as due,
           coalesce(g.max_attempts, g.task_attempts, q.max_attempts, d.max_attempts, %(fallback_attempts)s) as attempts
    from given g left join {schema}.queues q on q.name = g.lane
    -- What the code says of a queue, as long as no worker has written it to the table.
    left join unnest(%(declared)s::text[], %(declared_priorities)s::int[], %(declared_attempts)s::int[])
              as d (name, priority, max_attempts) on d.name = g.lane
    order by g.n),
numbered as materialized (
    select r.*, nextval('{schema}.jobs_id_seq') as id,
           case when r.due <= clock_timestamp() and r.waits is null then nextval('{schema}.jobs_position') end as position
    from entered, resolved r),
inserted as (
    insert into {schema}.jobs (id, queue, task, args, state, priority, position, run_at, max_attempts, unique_key, serial_key, options, headers, tags,
                              flow_id, waits_for)
    select id, lane, task, args::jsonb, case when waits then 'blocked' when position is null then 'scheduled' else 'available' end, rank, position, due,
           attempts, key, serial, options::jsonb, headers::jsonb,
           case when tags is not null then array(select jsonb_array_elements_text(tags::jsonb)) end, flow_id,
           case when waits then 'children' end
    -- Keys in one order in every transaction: two bulks with the same keys cannot deadlock.
    from numbered order by key nulls first, lane, n
    on conflict (unique_key, queue) where unique_key is not null do nothing
    returning id, created_at),
woken as (
    select pg_notify(%(channel)s, case when l.position is null then format('scheduled %%s', l.lane)
                                  else format('available %%s %%s %%s', l.lane, l.rank, l.position) end)
    from (select lane, rank, min(position) as position from numbered where waits is null group by lane, rank) l
    where exists (select from {schema}.idle_workers w where w.queue = l.lane))
select n.id, i.id is not null as created, n.lane, n.rank, n.attempts, n.due, i.created_at, n.position is not null as available, n.key, n.serial,
       (select count(*) from woken)
from numbered n left join inserted i on i.id = n.id
order by n.n
