-- New members of a flow, and who waits for whom.
with members as (
    insert into {schema}.flow_jobs (job_id, flow_id, queue, task, name)
    select u.job_id, %(flow)s, u.queue, u.task, u.name
    from unnest(%(ids)s::bigint[], %(queues)s::text[], %(tasks)s::text[], %(names)s::text[]) u (job_id, queue, task, name)),
edges as (
    insert into {schema}.flow_edges (parent_id, child_id, on_failure)
    select u.parent, u.child, u.policy
    from unnest(%(parents)s::bigint[], %(children)s::bigint[], %(policies)s::text[]) u (parent, child, policy)),
waits as (
    insert into {schema}.flow_waits as w (job_id, pending, failing, urgent, callback)
    select e.parent, count(*) filter (where e.is = 'waits'), count(*) filter (where e.is = 'fails'), count(*) filter (where e.is = 'hurries'),
           max(c.callback)
    from (select u.parent, {schema}.edge_state(u.policy, u.counted) as is
          from unnest(%(parents)s::bigint[], %(policies)s::text[], %(counted)s::text[]) u (parent, policy, counted)
          union all select parent, 'nothing' from unnest(%(waiting)s::bigint[]) parent) e
    left join unnest(%(callback_ids)s::bigint[], %(callbacks)s::text[]) c (job_id, callback) on c.job_id = e.parent
    group by e.parent
    on conflict (job_id) do update
    set pending = w.pending + excluded.pending, failing = w.failing + excluded.failing, urgent = w.urgent + excluded.urgent,
        waiting = true, doomed = false
    returning pending, failing)
select pg_notify(%(channel)s, 'flows') from waits where pending = 0 or failing > 0 limit 1
