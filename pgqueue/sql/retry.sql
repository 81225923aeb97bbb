-- running -> scheduled: a retry uses the attempt, a snooze gives it back. Not for jobs whose cancel was requested.
update {schema}.jobs
set state = 'scheduled', position = null, claim_id = null,
    run_at = clock_timestamp() + make_interval(secs => (%(delays)s::float8[])[array_position(%(ids)s::bigint[], id)]),
    attempt = attempt - (%(refunds)s::int[])[array_position(%(ids)s::bigint[], id)],
    crashes = crashes + (%(crashes)s::int[])[array_position(%(ids)s::bigint[], id)],
    errors = case when (%(errors)s::text[])[array_position(%(ids)s::bigint[], id)] is null then errors
             else case when jsonb_array_length(errors) >= 100 then errors - 0 else coalesce(errors, '[]') end
                  || (jsonb_build_object('attempt', attempt, 'at', clock_timestamp(), 'worker', %(worker)s::uuid)
                      || (%(errors)s::text[])[array_position(%(ids)s::bigint[], id)]::jsonb) end
where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[]) and not cancel_requested
returning id
