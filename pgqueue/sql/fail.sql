-- running -> failed: whole into failed_jobs, with every attempt's error.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[])
    returning *, array_position(%(ids)s::bigint[], id) as n),
kept as (
    insert into {schema}.failed_jobs (id, run_at, created_at, started_at, worker_id, attempt, max_attempts, priority, crashes, queue, task,
                                      unique_key, reason, error_type, error_message, fingerprint, args, options, headers, errors, tags)
    select id, run_at, created_at, clock_timestamp() - make_interval(secs => (%(durations)s::float8[])[n]), %(worker)s, attempt,
           max_attempts, priority, crashes + (%(crashes)s::int[])[n], queue, task, unique_key, (%(reasons)s::text[])[n],
           (%(errors)s::text[])[n]::jsonb ->> 'type', (%(errors)s::text[])[n]::jsonb ->> 'message', (%(fingerprints)s::text[])[n],
           args, options, headers,
           case when jsonb_array_length(errors) >= 100 then errors - 0 else coalesce(errors, '[]') end
           || (jsonb_build_object('attempt', attempt, 'at', clock_timestamp(), 'worker', %(worker)s::text) || (%(errors)s::text[])[n]::jsonb),
           tags
    from gone)
select id from gone
