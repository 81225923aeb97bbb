-- failed -> blocked: jobs that failed unrun for a child which has been redriven.
with due as materialized (
    select ctid as place, job_id from {schema}.flow_turns where turn = 'revive' order by random() limit %(count)s),
over as materialized (
    select w.job_id from {schema}.flow_waits w
    where w.job_id = any (array(select job_id from due)) and {schema}.flow_turn(w) = 'revive'
    order by w.job_id for update skip locked),
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
    update {schema}.flow_jobs set state = null, ended_at = null, error = null where job_id = any (array(select id from made)) returning job_id),
news as (
    insert into {schema}.flow_news (job_id, was, state) select job_id, 'failed', null from noted),
revived as (
    update {schema}.flow_waits w set doomed = false
    where w.job_id = any (array(select id from made
                                -- It was redriven by itself, or purged.
                                union all select o.job_id from over o
                                where not exists (select from {schema}.failed_jobs f where f.id = o.job_id and f.reason = 'child_failed')))
    returning w.job_id, {schema}.flow_turn(w) as turn),
turns as (
    insert into {schema}.flow_turns (job_id, turn)
    select job_id, turn from revived where turn is not null and job_id = any (array(select id from made))),
done as (
    delete from {schema}.flow_turns
    where ctid = any (array(
        select d.place from due d
        where d.job_id = any (array(select job_id from revived))
           -- One whose key another job holds stays failed, as with any redrive.
           or d.job_id = any (array(select id from lost))
           or not exists (select from {schema}.flow_waits w where w.job_id = d.job_id and {schema}.flow_turn(w) = 'revive')))
    returning 1)
select count(*) from done
