-- running -> gone: completed, in a queue or a task that keeps no history.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[]){only}
    returning id, flow_id, places),
{bound}woken as (
    -- Who waits for a result: mostly nobody, and nothing is looked up.
    delete from {schema}.waiters
    where (select last_value from {schema}.waited_until) >= extract(epoch from now()) and job_id = any (%(ids)s::bigint[])
      -- By the index first, and of those what has ended.
      and job_id in (select id from gone)
    returning pg_notify(channel, job_id::text))
select count(*), count(flow_id) from gone
