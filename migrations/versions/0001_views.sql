create view {schema}.all_jobs as
select id, state, queue, task, args, priority, attempt, max_attempts, unique_key, serial_key, tags, headers, errors,
       null::jsonb as result, null::text as reason, created_at, run_at, null::timestamptz as started_at, null::timestamptz as ended_at,
       null::uuid as worker_id
from {schema}.jobs
union all
select id, state, queue, task, args, priority, attempt, max_attempts, unique_key, serial_key, tags, headers, errors,
       result, reason, created_at, run_at, started_at, finished_at, worker_id
from {schema}.completed_jobs
union all
select id, 'failed', queue, task, args, priority, attempt, max_attempts, unique_key, serial_key, tags, headers, errors,
       null, reason, created_at, run_at, started_at, failed_at, worker_id
from {schema}.failed_jobs;
comment on view {schema}.all_jobs is 'Every job, live, completed, cancelled or failed, in one shape.';

create view {schema}.running_jobs as
select j.id, j.queue, j.task, j.args, j.attempt, j.max_attempts, c.claimed_at, clock_timestamp() - c.claimed_at as held_for,
       j.cancel_requested, c.worker_id, w.name as worker, w.host, w.pid, w.expires_at as lease_until
from {schema}.jobs j
left join {schema}.claims c on c.id = j.claim_id
left join {schema}.workers w on w.id = c.worker_id
where j.state = 'running';
comment on view {schema}.running_jobs is 'Claimed jobs and the worker that holds them.';

create view {schema}.queue_stats as
with live as (
    select queue,
           count(*) filter (where state = 'available') as available,
           count(*) filter (where state = 'running') as running,
           count(*) filter (where state = 'scheduled') as scheduled,
           count(*) filter (where state = 'scheduled' and attempt > 0) as retrying,
           count(*) filter (where state = 'blocked') as blocked,
           count(*) filter (where state = 'scheduled' and run_at <= clock_timestamp()) as due,
           min(run_at) filter (where state = 'available' or state = 'scheduled' and run_at <= clock_timestamp()) as oldest
    from {schema}.jobs group by queue),
ended as (
    select queue, count(*) as completed from {schema}.completed_jobs
    where finished_at > clock_timestamp() - interval '1 hour' and state = 'completed' group by queue),
failed as (select queue, count(*) as failed from {schema}.failed_jobs group by queue),
served as (
    select q.queue, count(*) as workers, sum(q.slots::int) as slots
    from {schema}.workers w, jsonb_each_text(w.queues) as q (queue, slots)
    where w.expires_at > clock_timestamp() and w.state = 'running' group by q.queue),
names as (
    select queue from live union select queue from ended union select queue from failed
    union select queue from served union select name from {schema}.queues)
select names.queue,
       coalesce(q.paused, false) as paused,
       coalesce(live.available, 0) as available, coalesce(live.running, 0) as running,
       coalesce(live.scheduled, 0) as scheduled, coalesce(live.due, 0) as due, coalesce(live.retrying, 0) as retrying,
       coalesce(live.blocked, 0) as blocked, coalesce(failed.failed, 0) as failed,
       coalesce(ended.completed, 0) as completed_last_hour,
       clock_timestamp() - live.oldest as oldest_waiting,
       coalesce(served.workers, 0) as workers, coalesce(served.slots, 0) as slots
from names
left join {schema}.queues q on q.name = names.queue
left join live on live.queue = names.queue
left join ended on ended.queue = names.queue
left join failed on failed.queue = names.queue
left join served on served.queue = names.queue
order by names.queue;
comment on view {schema}.queue_stats is 'One row a queue: how many jobs in each state (due: scheduled, and their time has come), how long the oldest that could run has waited, who serves it.';
