-- running -> completed, for jobs that still carry their claim.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[])
    returning *, array_position(%(ids)s::bigint[], id) as n),
kept as (
    insert into {schema}.completed_jobs (id, run_at, created_at, started_at, worker_id, attempt, max_attempts, priority, state, queue,
                                         task, unique_key, args, headers, errors, result, tags)
    select id, run_at, created_at, clock_timestamp() - make_interval(secs => (%(durations)s::float8[])[n]),
           %(worker)s, attempt, max_attempts, priority, 'completed', queue, task, unique_key, args, headers, errors,
           (%(results)s::text[])[n]::jsonb, tags
    from gone)
select count(*) from gone
