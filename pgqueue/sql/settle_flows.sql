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
change as materialized (
    select e.parent_id,
           sum((e.is = 'waits')::int - (e.was = 'waits')::int) as pending,
           sum((e.is = 'fails')::int - (e.was = 'fails')::int) as failing,
           sum((e.is = 'hurries')::int - (e.was = 'hurries')::int) as urgent
    from news n cross join lateral (
        select e.parent_id, {schema}.edge_state(e.on_failure, n.state) as is, {schema}.edge_state(e.on_failure, n.counted) as was
        from {schema}.flow_edges e where e.child_id = n.job_id) e
    where e.is <> e.was group by e.parent_id),
locked as materialized (
    select job_id from {schema}.flow_waits where job_id = any (array(select parent_id from change)) order by job_id for update),
told as (
    update {schema}.flow_waits w
    set pending = w.pending + c.pending, failing = w.failing + c.failing, urgent = w.urgent + c.urgent
    from locked l join change c on c.parent_id = l.job_id
    where w.job_id = l.job_id)
select count(*) from news
