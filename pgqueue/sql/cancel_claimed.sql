-- running -> cancelled, for jobs that still carry their claim: by the task itself, or instead of a retry.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[])
    returning *),
kept as (
    insert into {schema}.completed_jobs (id, run_at, created_at, started_at, worker_id, attempt, max_attempts, priority, state, queue,
                                         task, unique_key, serial_key, reason, args, headers, errors, tags, own_retention)
    select id, run_at, created_at, clock_timestamp() - make_interval(secs => duration),
           %(worker)s::uuid, attempt, max_attempts, priority, 'cancelled', queue, task, unique_key, serial_key,
           coalesce(g.reason, case when cancel_requested then 'cancelled while it ran' else 'a later job with its key took its place' end), args, headers, errors, tags,
           case when exists (select from {schema}.tasks t
                             where t.name = task and num_nonnulls(t.keep_completed, t.keep_completed_count) > 0) then true end
    from gone join unnest(%(ids)s::bigint[], %(durations)s::float8[], %(reasons)s::text[]) g (job_id, duration, reason) on job_id = id),
noted as (
    update {schema}.flow_jobs
    set state = 'cancelled', ended_at = clock_timestamp(), result = null,
        error = jsonb_build_object('type', 'pgqueue.errors.JobCancelled', 'message', coalesce(
            (%(reasons)s::text[])[array_position(%(ids)s::bigint[], job_id)], 'cancelled while it ran'))
    where job_id = any (array(select id from gone where flow_id is not null)) returning job_id),
news as (
    -- Those that wait for it are told by settle_flows.
    insert into {schema}.flow_news (job_id, was, state) select job_id, null, 'cancelled' from noted),
woken as (
    -- Who waits for a result: mostly nobody, and nothing is looked up. A stale outcome wakes them too: they look, and wait on.
    delete from {schema}.waiters
    where (select last_value from {schema}.waited_until) >= extract(epoch from now()) and job_id = any (%(ids)s::bigint[])
    returning pg_notify(channel, job_id::text))
select id, flow_id is not null from gone
