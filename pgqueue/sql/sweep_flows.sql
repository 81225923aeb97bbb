-- Members whose jobs were deleted: those that wait for them are told that they are gone.
with seen as materialized (
    select job_id, state from {schema}.flow_jobs where job_id > %(after)s order by job_id limit %(count)s),
lost as materialized (
    select s.job_id from seen s
    where case when s.state is null then (select true from {schema}.jobs j where j.id = s.job_id)
               when s.state = 'failed' then (select true from {schema}.failed_jobs f where f.id = s.job_id)
               else true end is null),
gone as (
    update {schema}.flow_jobs n
    set state = 'gone', ended_at = coalesce(ended_at, clock_timestamp()),
        error = coalesce(error, jsonb_build_object('type', 'pgqueue.errors.JobNotFound', 'message', 'the job was deleted'))
    where n.job_id = any (array(select job_id from lost))
      -- Since the look it may have been redriven, or have ended.
      and n.state is not distinct from (select s.state from seen s where s.job_id = n.job_id)
      and not exists (select from {schema}.jobs j where j.id = n.job_id)
      and not exists (select from {schema}.failed_jobs f where f.id = n.job_id)
    returning n.job_id),
news as (
    insert into {schema}.flow_news (job_id, was, state)
    select job_id, (select s.state from seen s where s.job_id = g.job_id), 'gone' from gone g)
select (select max(job_id) from seen), (select count(*) from gone)
