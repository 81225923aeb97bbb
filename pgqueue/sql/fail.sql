-- running -> failed: whole into failed_jobs, with every attempt's error; the on_failed tasks of these jobs -> available.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[])
    returning *),
kept as (
    insert into {schema}.failed_jobs (id, run_at, created_at, started_at, worker_id, attempt, max_attempts, priority, crashes, queue, task,
                                      unique_key, serial_key, reason, error_type, error_message, fingerprint, args, options, headers, errors, tags,
                                      places, flow_id)
    select id, run_at, created_at, clock_timestamp() - make_interval(secs => duration), %(worker)s, attempt,
           max_attempts, priority + coalesce(aged, 0), crashes + crashed, queue, task, unique_key, serial_key, g.reason,
           error ->> 'type', error ->> 'message', g.fingerprint,
           args, nullif(options - array['yields_to', 'heir'], '{{}}'), headers,
           case when jsonb_array_length(errors) >= 100 then errors - 0 else coalesce(errors, '[]') end
           || (jsonb_build_object('attempt', attempt, 'at', clock_timestamp(), 'worker', %(worker)s::uuid) || error),
           tags,
           -- What halts its serial key keeps its place there; the others are freed by the next statement.
           case when places is not null then (
               select nullif(array(select p from unnest(places) p where p like 'serial:%%'), '{{}}')
               from {schema}.tasks t where t.name = task and t.halt_on_failed) end,
           flow_id
    from gone
    join (select job_id, duration, crashed, reason, fingerprint, error::jsonb
          from unnest(%(ids)s::bigint[], %(durations)s::float8[], %(crashes)s::int[], %(reasons)s::text[], %(fingerprints)s::text[],
                      %(errors)s::text[]) u (job_id, duration, crashed, reason, fingerprint, error)) g on job_id = id
    returning id, queue, task),
noted as (
    update {schema}.flow_jobs
    set state = 'failed', ended_at = clock_timestamp(), result = null,
        error = (%(errors)s::text[])[array_position(%(ids)s::bigint[], job_id)]::jsonb - 'traceback'
    where job_id = any (array(select id from gone where flow_id is not null)) returning job_id),
news as (
    -- Those that wait for it are told by settle_flows.
    insert into {schema}.flow_news (job_id, was, state) select job_id, null, 'failed' from noted),
told as (
    select {schema}.enqueue_on_failed(array_agg(k.id)) from kept k
    left join {schema}.tasks t on t.name = k.task
    left join {schema}.queues q on q.name = k.queue
    where coalesce(t.on_failed, q.on_failed, t.app_defaults ->> 'on_failed') <> ''),
woken as (
    -- Who waits for a result: mostly nobody, and nothing is looked up. A stale outcome wakes them too: they look, and wait on.
    delete from {schema}.waiters
    where (select last_value from {schema}.waited_until) >= extract(epoch from now()) and job_id = any (%(ids)s::bigint[])
    returning pg_notify(channel, job_id::text))
-- Not a left join: the planner would leave it out, and the on_failed tasks with it.
select gone.id, gone.flow_id is not null from gone cross join (select count(*) from told) t
