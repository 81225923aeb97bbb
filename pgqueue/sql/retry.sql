-- running -> scheduled: a retry uses the attempt, a snooze gives it back. Not for jobs whose cancel was requested.
update {schema}.jobs j
set state = 'scheduled', position = null, ready = null, claim_id = null, priority = priority + coalesce(aged, 0), aged = null, places = case when places is not null then nullif(array(select p from unnest(places) p where p like 'serial:%%'), '{{}}') end,
    (run_at, attempt, crashes, errors) = (
    select clock_timestamp() + make_interval(secs => (%(delays)s::float8[])[n]),
           attempt - (%(refunds)s::int[])[n],
           crashes + (%(crashes)s::int[])[n],
           case when (%(errors)s::text[])[n] is null then errors
           else case when jsonb_array_length(errors) >= 100 then errors - 0 else coalesce(errors, '[]') end
                || (jsonb_build_object('attempt', attempt, 'at', clock_timestamp(), 'worker', %(worker)s::uuid)
                    || (%(errors)s::text[])[n]::jsonb) end
    -- The ids are sorted, so that each is found by a binary search; once, which "offset 0" makes sure of.
    from (select width_bucket(id, %(ids)s::bigint[]) as n offset 0) place)
where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[]) and not cancel_requested
  -- Nor for one that gave its unique key to another: see take_keys_back.
  and not coalesce(j.options ? 'yields_to', false)
returning id
