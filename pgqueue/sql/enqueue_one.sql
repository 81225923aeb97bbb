-- new -> available | scheduled, as enqueue.sql does, for one job whose queue is known. No row when a live job holds its key.
with entered as materialized (
    -- The transaction must have its id before it takes a position: the claimers' marks rely on it.
    select pg_current_xact_id())
insert into {schema}.jobs (queue, task, args, state, priority, position, run_at, max_attempts, unique_key, serial_key, options, headers, tags)
select %(queue)s::text, %(task)s::text, %(args)s::jsonb, case when position is null then 'scheduled' else 'available' end,
       rank, position, due, attempts, key, serial, %(options)s::jsonb, %(headers)s::jsonb,
       case when %(tags)s::text is not null then array(select jsonb_array_elements_text(%(tags)s::jsonb)) end
from (select r.*, case when r.due <= clock_timestamp() then nextval('{schema}.jobs_position') end as position
      from (select coalesce(%(priority)s::int, t.priority, q.priority, %(fallback_priority)s) as rank,
                   coalesce(%(run_at)s::timestamptz, clock_timestamp() + make_interval(secs => %(delay)s::float8), clock_timestamp()) as due,
                   coalesce(%(max_attempts)s::int, t.max_attempts, q.max_attempts, %(fallback_attempts)s) as attempts,
                   coalesce(%(key)s::text, case when t.unique_key is not null then {schema}.fill_key(t.unique_key, %(args)s::jsonb) end) as key,
                   coalesce(%(serial_key)s::text, case when t.serial_key is not null then {schema}.fill_key(t.serial_key, %(args)s::jsonb) end) as serial
            from entered
            left join {schema}.tasks t on t.name = %(task)s::text
            left join {schema}.queues q on q.name = %(queue)s::text) r) n
on conflict (unique_key, queue) where unique_key is not null do nothing
returning id, priority, max_attempts, run_at, created_at, position is not null, unique_key, serial_key,
          case when exists (select from {schema}.idle_workers w where w.queue = %(queue)s::text)
               then pg_notify(%(channel)s, case when position is null then format('scheduled %%s', queue)
                                                else format('available %%s %%s %%s', queue, priority, position) end) end
