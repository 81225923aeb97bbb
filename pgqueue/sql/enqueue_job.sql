-- new -> available | scheduled | blocked, or whatever is to happen while a job holds the key, one job after the other.
with given as (
    select g.*, coalesce(g.queue, t.queue, 'default') as lane, d.priority as declared_priority, d.max_attempts as declared_attempts,
           coalesce(g.given_key, case when t.unique_key is not null then {schema}.fill_key(t.unique_key, g.args::jsonb) end) as key
    from unnest(%(queues)s::text[], %(tasks)s::text[], %(args)s::text[], %(priorities)s::int[], %(run_ats)s::timestamptz[],
                %(delays)s::float8[], %(max_attempts)s::int[], %(keys)s::text[], %(serial_keys)s::text[], %(options)s::text[],
                %(headers)s::text[], %(tags)s::text[], %(conflicts)s::text[], %(keeps)s::interval[],
                %(flows)s::bigint[], %(waits)s::boolean[])
         with ordinality as g (queue, task, args, priority, run_at, delay, max_attempts, given_key, given_serial, options, headers, tags,
                               on_conflict, keep_key, flow_id, waits, n)
    left join {schema}.tasks t on t.name = g.task
    left join unnest(%(declared)s::text[], %(declared_priorities)s::int[], %(declared_attempts)s::int[])
              as d (name, priority, max_attempts) on d.name = coalesce(g.queue, t.queue, 'default')),
made as materialized (
    -- Keys in one order in every transaction: two bulks with the same keys cannot deadlock.
    select g.n, e.* from (select * from given order by key nulls first, lane, n) g
    cross join lateral {schema}.enqueue_job(
        g.task, g.args::jsonb, g.queue, coalesce(g.run_at, clock_timestamp() + make_interval(secs => g.delay)), g.priority, g.given_key,
        g.given_serial, g.max_attempts, g.options::jsonb,
        case when g.tags is not null then array(select jsonb_array_elements_text(g.tags::jsonb)) end, g.headers::jsonb,
        g.on_conflict, g.keep_key, coalesce(g.declared_priority, 0), coalesce(g.declared_attempts, %(fallback_attempts)s),
        g.flow_id, coalesce(g.waits, false)) e)
select refused, id, created, lane, rank, attempts, due, created_at, available, unique_key, order_key from made order by n
