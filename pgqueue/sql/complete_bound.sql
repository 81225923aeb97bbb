-- What more is to be done where jobs that complete hold places at limits, or are in flows.
freed as (
    insert into {schema}.freed_places (gate, loose, places)
    select place, false, count(*) from gone, unnest(places) place where places is not null group by place),
noted as (
    update {schema}.flow_jobs
    set state = 'completed', ended_at = clock_timestamp(),
        error = (select jsonb_build_object('type', 'pgqueue.errors.JobEnded', 'message', why)
                 from (values ((%(unstored)s::text[])[array_position(%(ids)s::bigint[], job_id)])) u (why) where why is not null),
        result = (%(results)s::text[])[array_position(%(ids)s::bigint[], job_id)]::jsonb
    where job_id = any (array(select id from gone where flow_id is not null)) returning job_id),
news as (
    -- Those that wait for it are told by settle_flows.
    insert into {schema}.flow_news (job_id, was, state) select job_id, null, 'completed' from noted),
