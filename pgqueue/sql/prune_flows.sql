-- Flows that are locked, all of whose jobs have ended longer ago: gone, with their members and who waited for whom.
with over as materialized (
    select id from unnest(%(ids)s::bigint[]) id
    where (select bool_and(n.state is not null and n.state <> 'failed' and n.ended_at <= clock_timestamp() - %(age)s::interval)
           from {schema}.flow_jobs n where n.flow_id = id)
      -- Nor one whose news are still to be told,
      and not exists (select from {schema}.flow_news w join {schema}.flow_jobs n on n.job_id = w.job_id where n.flow_id = id)
      -- or whose jobs are waited for in another flow.
      and (select true from {schema}.flow_jobs n join {schema}.flow_edges e on e.child_id = n.job_id
           join {schema}.flow_jobs p on p.job_id = e.parent_id where n.flow_id = id and p.flow_id <> id
           and (p.state is null or p.state = 'failed') limit 1) is null),
members as (
    delete from {schema}.flow_jobs where flow_id = any (array(select id from over)) returning job_id),
edges as (
    delete from {schema}.flow_edges where parent_id = any (array(select job_id from members))),
waits as (
    delete from {schema}.flow_waits where job_id = any (array(select job_id from members))),
gone as (
    delete from {schema}.flows where id = any (array(select id from over)) returning 1)
select count(*) from gone
