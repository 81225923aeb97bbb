-- Members of flows that have ended, or live again: those that wait for them count it.
with asynchronous as materialized (
    -- What is lost in a crash of the server is found again: it is still to be counted.
    select set_config('synchronous_commit', 'off', true)),
news as materialized (
    select n.job_id, n.state, n.counted from asynchronous, {schema}.flow_jobs n
    where n.state is distinct from n.counted
    -- Who adds a parent to one holds its row, so that the parent is told too.
    order by n.job_id limit %(count)s for update of n skip locked),
counted as (
    update {schema}.flow_jobs set counted = state where job_id = any (array(select job_id from news))),
-- No table is joined to ids: the planner might read the whole of it.
edges as materialized (
    select parent_id, child_id, on_failure from {schema}.flow_edges where child_id = any (array(select job_id from news))),
change as materialized (
    select e.parent_id,
           sum((e.is = 'waits')::int - (e.was = 'waits')::int)::int as pending,
           sum((e.is = 'fails')::int - (e.was = 'fails')::int)::int as failing,
           sum((e.is = 'hurries')::int - (e.was = 'hurries')::int)::int as urgent
    from (select e.parent_id, {schema}.edge_state(e.on_failure, n.state) as is, {schema}.edge_state(e.on_failure, n.counted) as was
          from news n join edges e on e.child_id = n.job_id) e
    where e.is <> e.was group by e.parent_id),
changes as materialized (
    select array_agg(parent_id order by parent_id) as ids, array_agg(pending order by parent_id) as pending,
           array_agg(failing order by parent_id) as failing, array_agg(urgent order by parent_id) as urgent from change),
locked as materialized (
    select job_id from {schema}.flow_waits where job_id = any (array(select parent_id from change)) order by job_id for update),
told as (
    update {schema}.flow_waits w
    set (pending, failing, urgent) = (
        -- The ids are sorted, so that each is found by a binary search.
        select w.pending + c.pending[n], w.failing + c.failing[n], w.urgent + c.urgent[n]
        from (select changes.*, width_bucket(w.job_id, ids) as n from changes offset 0) c)
    where job_id = any (array(select job_id from locked)))
select count(*) from news
