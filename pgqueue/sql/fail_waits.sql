-- blocked -> failed, unrun: jobs a child of which has not completed; what else runs for them is to be cancelled where that is asked.
with due as materialized (
    select ctid as place, job_id from {schema}.flow_turns where turn = 'fail' order by random() limit %(count)s),
over as materialized (
    select w.job_id from {schema}.flow_waits w
    where w.job_id = any (array(select job_id from due)) and {schema}.flow_turn(w) = 'fail'
    order by w.job_id for update skip locked),
free as materialized (
    select id from {schema}.jobs
    where id = any (array(select job_id from over)) and state = 'blocked' and waits_for = 'children'
    order by id for update skip locked),
edges as materialized (
    -- Those of the round in which it waits now.
    select e.parent_id, e.child_id, e.on_failure from {schema}.flow_edges e
    where e.parent_id = any (array(select id from free))
      and e.round = (select w.round from {schema}.flow_waits w where w.job_id = e.parent_id)),
children as materialized (
    select e.parent_id, e.on_failure, c.*, {schema}.edge_state(e.on_failure, c.state) as means
    from edges e cross join lateral (
        select m.job_id, m.task, m.state, m.error, m.flow_id, m.adopted from {schema}.flow_jobs m where m.job_id = e.child_id offset 0) c),
failing as materialized (
    select distinct on (parent_id) * from children where means = 'fails' order by parent_id, job_id),
gone as (
    -- Not one whose child lives again since it was counted: it is counted anew.
    delete from {schema}.jobs where id = any (array(select parent_id from failing)) and state = 'blocked' and waits_for = 'children' returning *),
why as materialized (
    select g.id as parent_id, c.task as child,
           jsonb_build_object('type', 'pgqueue.errors.ChildFailed', 'message',
                              -- A child that failed for a child of its own says which.
                              case when c.error ->> 'type' = 'pgqueue.errors.ChildFailed' then c.error ->> 'message'
                              else format('job %%s (%%s) %%s: %%s', c.job_id, c.task,
                                     case c.state when 'gone' then 'was deleted' when 'failed' then 'failed' else 'was cancelled' end,
                                     coalesce(c.error ->> 'type' || ': ' || (c.error ->> 'message'), 'nothing more is known')) end,
                              'traceback', '') as error
    from gone g join failing c on c.parent_id = g.id),
kept as (
    insert into {schema}.failed_jobs (id, run_at, created_at, attempt, max_attempts, priority, crashes, queue, task, unique_key,
                                      serial_key, reason, error_type, error_message, fingerprint, args, options, headers, errors, tags, flow_id)
    select g.id, g.run_at, g.created_at, g.attempt, g.max_attempts, g.priority, g.crashes, g.queue, g.task, g.unique_key, g.serial_key,
           'child_failed', error ->> 'type', error ->> 'message',
           left(encode(sha256(convert_to(format('%%s after %%s', g.task, why.child), 'UTF8')), 'hex'), 12),
           g.args, g.options, g.headers,
           coalesce(g.errors, '[]') || (jsonb_build_object('attempt', g.attempt, 'at', clock_timestamp(), 'worker', null) || error),
           g.tags, g.flow_id
    from gone g join why on why.parent_id = g.id
    returning id, queue, task),
noted as (
    update {schema}.flow_jobs
    set state = 'failed', ended_at = clock_timestamp(), result = null,
        error = (select w.error - 'traceback' from why w where w.parent_id = job_id)
    where job_id = any (array(select id from gone)) returning job_id),
news as (
    insert into {schema}.flow_news (job_id, was, state) select job_id, null, 'failed' from noted),
doomed as (
    update {schema}.flow_waits set doomed = true where job_id = any (array(select id from gone))),
siblings as (
    insert into {schema}.flow_turns (job_id, turn)
    -- Those of its own flow, and not what was there before it.
    select distinct c.job_id, 'cancel' from children c
    where c.state is null and not c.adopted and c.parent_id = any (array(select id from gone))
      and c.parent_id = any (array(select parent_id from children where on_failure = 'cancel_siblings' and means = 'fails'))
      and c.flow_id = any (array(select flow_id from gone))),
done as (
    delete from {schema}.flow_turns
    where ctid = any (array(
        select d.place from due d
        where d.job_id = any (array(select id from gone))
           -- It was cancelled or deleted, or waits on; who changes that says so anew.
           or not exists (select from {schema}.jobs j where j.id = d.job_id and j.state = 'blocked' and j.waits_for = 'children')
           or not exists (select from {schema}.flow_waits w where w.job_id = d.job_id and {schema}.flow_turn(w) = 'fail')))
    returning 1),
freed as (
    insert into {schema}.freed_places (gate, loose, places)
    select place, false, count(*) from gone, unnest(places) place where places is not null group by place returning 1),
told as (
    select {schema}.enqueue_on_failed(array_agg(k.id)) from kept k
    left join {schema}.tasks t on t.name = k.task
    left join {schema}.queues q on q.name = k.queue
    where coalesce(t.on_failed, q.on_failed, t.app_defaults ->> 'on_failed') <> ''),
woken as (
    delete from {schema}.waiters where job_id = any (array(select id from gone)) returning pg_notify(channel, job_id::text)),
limits as (
    select pg_notify(%(channel)s, 'limits') from freed limit 1)
select (select count(*) from done), (select count(*) from told), (select count(*) from limits)
