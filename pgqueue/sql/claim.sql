-- available -> running, oldest first above the mark, or newest first, in one lane (queue and priority).
with sequence as materialized (
    -- Read before the claim takes its transaction id; no row when the queue is paused, or the worker has no row.
    -- A sequence that was never used shows its first value as the last.
    select last_value - (not is_called)::int as allocated, pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin,
           -- Losing a claim in a crash only means that the job is claimed again.
           set_config('synchronous_commit', 'off', true)
    from {schema}.jobs_position
    where not exists (select from {schema}.queues where name = %(queue)s and paused)
      -- A worker that was buried holds nothing: what it claimed would look like a dead one's.
      and exists (select from {schema}.workers where id = %(worker)s)),
due as materialized (
    select id, position, max_attempts, serial_key is not null or task = any ({limited}) as limited from {schema}.jobs
    where queue = %(queue)s and priority = %(priority)s and position > %(mark)s and position is not null
      and state = 'available' and task = any (%(tasks)s) and (select allocated from sequence) is not null
    order by position{direction} limit %(count)s for update skip locked),
chosen as (
    -- A job that must not repeat is taken only if a slot can start it now; one with a serial key, or a limit of its task, by pick.sql only.
    select id from due where max_attempts > 1 and not limited
    union all (select id from due where max_attempts = 1 and not limited order by position{direction} limit %(slots)s)),
taken as (
    update {schema}.jobs set state = 'running', attempt = attempt + 1, claim_id = %(fence)s
    where id = any (array(select id from chosen)) and state = 'available'
    returning id, position, task, args::text, attempt, max_attempts, crashes, suspicions, options::text, headers::text,
              flow_id is null and places is null as plain{ages}),
kept as (
    insert into {schema}.claims (id, worker_id, queue, job_ids)
    select %(fence)s, %(worker)s, %(queue)s, array_agg(id) from taken having count(*) > 0)
-- What the scan saw comes first, in a row of its own: on each job's it would cost as much as the job.
-- A mark that has nothing new to wait for needs no transaction id, and an idle worker uses none up.
select array[case when sequence.allocated > %(known)s then pg_current_xact_id()::text::bigint end, sequence.allocated, sequence.xmin,
             (select min(position) from due where (max_attempts = 1 or limited) and id not in (select id from chosen)),
             exists (select from due where limited)::int] as scan, taken.*
from sequence left join taken on false
union all
select null, * from taken
order by position{direction} nulls first
