-- running -> gone: completed, in a queue or a task that keeps no history.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[])
    returning id, flow_id, queue, task, places),
freed as (
    insert into {schema}.freed_places (gate, loose, places)
    select place, false, count(*) from gone, unnest(places) place where places is not null group by place),
noted as (
    update {schema}.flow_jobs
    set state = 'completed', ended_at = clock_timestamp(),
        error = (select jsonb_build_object('type', 'pgqueue.errors.JobEnded', 'message', why)
                 from (values ((%(unstored)s::text[])[array_position(%(ids)s::bigint[], job_id)])) u (why) where why is not null),
        result = (%(results)s::text[])[array_position(%(ids)s::bigint[], job_id)]::jsonb
    where job_id = any (array(select id from gone where flow_id is not null)) returning job_id),
news as (
    -- Those that wait for it are told by settle_flows.
    insert into {schema}.flow_news (job_id, was, state) select job_id, null, 'completed' from noted),
woken as (
    -- Who waits for a result: mostly nobody, and nothing is looked up. A stale outcome wakes them too: they look, and wait on.
    delete from {schema}.waiters
    where (select last_value from {schema}.waited_until) >= extract(epoch from now()) and job_id = any (%(ids)s::bigint[])
    returning pg_notify(channel, job_id::text))
select count(*), count(flow_id) from gone
