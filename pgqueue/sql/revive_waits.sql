-- failed -> blocked: jobs that failed unrun for a child which has been redriven.
with over as materialized (
    select w.job_id from {schema}.flow_waits w where w.doomed and w.failing = 0 order by w.job_id limit %(count)s for update skip locked),
lost as materialized (
    select f.* from {schema}.failed_jobs f
    where f.id = any (array(select job_id from over)) and f.reason = 'child_failed' order by f.id for update skip locked),
made as (
    insert into {schema}.jobs (id, run_at, created_at, attempt, max_attempts, priority, state, waits_for, queue, task, unique_key,
                               serial_key, args, options, headers, errors, tags, flow_id)
    select l.id, l.run_at, l.created_at, l.attempt, l.max_attempts, l.priority, 'blocked', 'children', l.queue, l.task, l.unique_key,
           l.serial_key, l.args, l.options, l.headers, l.errors, l.tags, l.flow_id
    from lost l order by l.unique_key nulls first, l.queue, l.id
    on conflict do nothing returning id),
gone as (
    delete from {schema}.failed_jobs where id = any (array(select id from made)) returning id),
noted as (
    update {schema}.flow_jobs set state = null, ended_at = null, error = null where job_id = any (array(select id from made))),
done as (
    update {schema}.flow_waits w set waiting = w.job_id = any (array(select id from made)), doomed = false
    where w.job_id = any (array(select id from made
                                -- It was redriven by itself, or purged.
                                union all select o.job_id from over o
                                where not exists (select from {schema}.failed_jobs f where f.id = o.job_id and f.reason = 'child_failed')))
    returning w.job_id)
select (select count(*) from over), (select count(*) from done)
