-- Adds the rows of the oldest minute apart to those of the step that it is in.
with oldest as materialized (
    select minute, date_bin(make_interval(secs => %(step)s), minute, '2000-01-01 00:00Z') as packed
    from {schema}.task_minutes
    where minute > coalesce(%(after)s::timestamptz, '-infinity')
      and minute < date_bin(make_interval(secs => %(step)s), clock_timestamp() - %(apart)s::interval, '2000-01-01 00:00Z')
      and minute <> date_bin(make_interval(secs => %(step)s), minute, '2000-01-01 00:00Z')
    order by minute
    limit 1),
apart as (
    delete from {schema}.task_minutes m using oldest where m.minute = oldest.minute
    returning oldest.packed, m.*),
packed as (
    insert into {schema}.task_minutes as m (minute, run_seconds, wait_seconds, completed, failed, retried, snoozed, cancelled, queue, task,
                                            runs, waits)
    select packed, run_seconds, wait_seconds, completed, failed, retried, snoozed, cancelled, queue, task, runs, waits from apart
    -- As workers lock them.
    order by queue collate "C", task collate "C"
{merge})
select minute from oldest
