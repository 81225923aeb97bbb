-- running -> completed, for jobs that still carry their claim.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s) and claim_id = any (%(fences)s)
    returning *),
kept as (
    insert into {schema}.completed_jobs (id, run_at, created_at, started_at, worker_id, attempt, max_attempts, priority, state, queue,
                                         task, unique_key, args, headers, errors, result, tags)
    select id, run_at, created_at, clock_timestamp() - make_interval(secs => (%(durations)s::float8[])[array_position(%(ids)s, id)]),
           %(worker)s, attempt, max_attempts, priority, 'completed', queue, task, unique_key, args, headers, errors,
           (%(results)s::text[])[array_position(%(ids)s, id)]::jsonb, tags
    from gone)
select count(*) from gone
