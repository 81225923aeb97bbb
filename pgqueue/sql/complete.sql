-- running -> completed, for jobs that still carry their claim.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[]){only}
    returning *),
kept as (
    insert into {schema}.completed_jobs (id, run_at, created_at, started_at, worker_id, attempt, max_attempts, priority, state, queue,
                                         task, unique_key, serial_key, args, headers, errors, result, reason, tags,
                                         own_retention, finished_at)
    select id, run_at, created_at, statement_timestamp() - microseconds * interval '1 microsecond',
           %(worker)s::uuid, attempt, max_attempts, priority, 'completed', queue, task, unique_key, serial_key, args, headers, errors,
           result::jsonb, unstored, tags, %(own)s::boolean, statement_timestamp()
    from gone join unnest(%(ids)s::bigint[], %(microseconds)s::bigint[], %(results)s::text[], %(unstored)s::text[])
                   g (job_id, microseconds, result, unstored) on job_id = id),
{bound}woken as (
    -- Who waits for a result: mostly nobody, and nothing is looked up.
    delete from {schema}.waiters
    where (select last_value from {schema}.waited_until) >= extract(epoch from now()) and job_id = any (%(ids)s::bigint[])
      -- By the index first, and of those what has ended.
      and job_id in (select id from gone)
    returning pg_notify(channel, job_id::text))
select count(*), count(flow_id) from gone
