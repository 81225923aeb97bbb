-- Jobs that exist, their ids sorted, become members of flows, where they are of none: live ones are locked against their end, ended ones noted as they ended.
with live as (
    update {schema}.jobs set flow_id = (%(flows)s::bigint[])[width_bucket(id, %(ids)s::bigint[])]
    where id = any (%(ids)s::bigint[]) and flow_id is null returning id, flow_id, queue, task),
ended as (
    select id, queue, task, state, result,
           case when reason is not null then jsonb_build_object(
               'type', case state when 'cancelled' then 'pgqueue.errors.JobCancelled' else 'pgqueue.errors.JobEnded' end,
               'message', reason) end as error, finished_at as at
    from {schema}.completed_jobs where id = any (%(ids)s::bigint[])
    union all
    select id, queue, task, 'failed', null, jsonb_build_object('type', error_type, 'message', error_message), failed_at
    from {schema}.failed_jobs where id = any (%(ids)s::bigint[]))
insert into {schema}.flow_jobs (job_id, flow_id, queue, task, state, result, error, ended_at, adopted)
select id, flow_id, queue, task, null, null, null, null, true from live
union all
-- A job that was redriven has ended twice, one that was cancelled twice is there twice.
select * from (select distinct on (id) id, (%(flows)s::bigint[])[width_bucket(id, %(ids)s::bigint[])], queue, task, state, result, error, at, true from ended order by id, at desc) e
on conflict (job_id) do nothing
