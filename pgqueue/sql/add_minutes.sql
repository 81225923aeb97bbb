-- Adds what a worker has counted to the minute in which it was.
with written as (
    insert into {schema}.task_minutes as m (minute, run_seconds, wait_seconds, completed, failed, retried, snoozed, cancelled, queue, task,
                                            runs, waits)
    select date_trunc('minute', now() - make_interval(secs => %(ago)s), 'UTC'), run_seconds, wait_seconds, completed, failed, retried,
           snoozed, cancelled, queue, task, runs::int[], waits::int[]
    from unnest(%(queues)s::text[], %(tasks)s::text[], %(completed)s::bigint[], %(failed)s::bigint[], %(retried)s::bigint[],
                %(snoozed)s::bigint[], %(cancelled)s::bigint[], %(runs)s::text[], %(waits)s::text[], %(run_seconds)s::float8[],
                %(wait_seconds)s::float8[])
         g (queue, task, completed, failed, retried, snoozed, cancelled, runs, waits, run_seconds, wait_seconds),
         -- Nobody waits for the disk while others wait for these rows: what a crash takes are figures.
         (select set_config('synchronous_commit', 'off', true)) s
    -- All workers lock them in this order.
    order by queue collate "C", task collate "C"
{merge})
select 60 - date_part('second', clock_timestamp() at time zone 'UTC')
