-- What running tasks have told: the last progress of each job, and log lines. Not of a worker that lost its claims.
with mine as (
    select id as fence from {schema}.claims where id = any (%(fences)s::bigint[]) and worker_id = %(worker)s),
progressed as (
    insert into {schema}.job_progress (job_id, percent, message)
    select g.job_id, g.percent, g.message
    from unnest(%(progress_ids)s::bigint[], %(progress_fences)s::bigint[], %(percents)s::float8[], %(messages)s::text[])
         g (job_id, fence, percent, message) join mine using (fence)
    order by g.job_id
    on conflict (job_id) do update set percent = excluded.percent, message = excluded.message, updated_at = clock_timestamp()
    returning 1),
logged as (
    insert into {schema}.job_logs (job_id, attempt, logged_at, level, message)
    select g.job_id, g.attempt, g.logged_at, g.level, g.line
    from unnest(%(log_ids)s::bigint[], %(log_fences)s::bigint[], %(attempts)s::int[], %(times)s::timestamptz[], %(levels)s::text[],
                %(lines)s::text[]) with ordinality g (job_id, fence, attempt, logged_at, level, line, n) join mine using (fence)
    order by g.n returning 1)
select (select count(*) from progressed), (select count(*) from logged)
