-- New members of a flow, and who waits for whom.
with members as (
    insert into {schema}.flow_jobs (job_id, flow_id, queue, task, name)
    select * from unnest(%(ids)s::bigint[], %(flows)s::bigint[], %(queues)s::text[], %(tasks)s::text[], %(names)s::text[])),
forgotten as (
    -- They have ended, and nothing more is known of them: their keys are still used.
    insert into {schema}.flow_jobs (job_id, flow_id, queue, task, state, ended_at, adopted)
    select u.*, 'completed', clock_timestamp(), true
    from unnest(%(forgotten)s::bigint[], %(forgotten_flows)s::bigint[], %(forgotten_queues)s::text[], %(forgotten_tasks)s::text[]) u
    on conflict (job_id) do nothing),
edges as materialized (
    select * from unnest(%(parents)s::bigint[], %(children)s::bigint[], %(policies)s::text[]) u (parent_id, child_id, on_failure)),
-- Who ends or lives again is locked out. What has been written and not been counted yet is told to these parents too.
known as materialized (
    select job_id, state, 1 as times, 0 as told from {schema}.flow_jobs where job_id = any (%(known)s::bigint[])
    union all select job_id, was, 1, told from {schema}.flow_news where job_id = any (%(known)s::bigint[])
    union all select job_id, state, -1, told from {schema}.flow_news where job_id = any (%(known)s::bigint[])
    union all select job_id, 'completed', 1, 0 from unnest(%(forgotten)s::bigint[]) job_id),
counts as (
    select e.parent_id, {schema}.edge_state(e.on_failure, k.state) as is, coalesce(k.times, 1) as times
    from edges e left join known k on k.job_id = e.child_id and e.parent_id > k.told
    union all select parent_id, 'nothing', 0 from unnest(%(waiting)s::bigint[]) parent_id),
waits as (
    insert into {schema}.flow_waits as w (job_id, pending, failing, urgent, callback)
    select c.parent_id, coalesce(sum(c.times) filter (where c.is = 'waits'), 0), coalesce(sum(c.times) filter (where c.is = 'fails'), 0),
           coalesce(sum(c.times) filter (where c.is = 'hurries'), 0), max(b.callback)
    from counts c
    left join unnest(%(callback_ids)s::bigint[], %(callbacks)s::text[]) b (job_id, callback) on b.job_id = c.parent_id
    group by c.parent_id
    on conflict (job_id) do update
    set round = w.round + 1, pending = excluded.pending, failing = excluded.failing, urgent = excluded.urgent, doomed = false,
        -- It has begun, so what it waits for now decides no more whether it is to.
        callback = null
    returning job_id, round, {schema}.flow_turn(w) as turn),
made as (
    insert into {schema}.flow_edges (parent_id, child_id, round, on_failure)
    select e.parent_id, e.child_id, w.round, e.on_failure from edges e join waits w on w.job_id = e.parent_id
    on conflict (parent_id, child_id) do update set round = excluded.round, on_failure = excluded.on_failure),
turns as (
    insert into {schema}.flow_turns (job_id, turn) select job_id, turn from waits where turn is not null returning 1)
select pg_notify(%(channel)s, 'flows') from turns limit 1
