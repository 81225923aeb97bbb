-- running -> blocked: the job waits for jobs that it brings, the attempt given back. Not if its cancel was requested.
with went as (
    update {schema}.jobs j
    set state = 'blocked', position = null, ready = null, claim_id = null, attempt = attempt - 1, waits_for = 'children',
        flow_id = coalesce(flow_id, (%(flows)s::bigint[])[array_position(%(ids)s::bigint[], id)]),
        options = coalesce(options, '{{}}') || '{{"children": true}}',
        priority = priority + coalesce(aged, 0), aged = null,
        -- Its serial key too: its children may have the same.
        places = null
    where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[]) and not cancel_requested
      -- Nor for one that gave its unique key to another: see take_keys_back.
      and not coalesce(j.options ? 'yields_to', false)
    returning id, flow_id, queue, task),
members as (
    insert into {schema}.flow_jobs (job_id, flow_id, queue, task) select id, flow_id, queue, task from went on conflict (job_id) do nothing)
select id, flow_id from went
