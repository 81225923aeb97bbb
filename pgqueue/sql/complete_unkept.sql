-- running -> gone: completed, in a queue or a task that keeps no history.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[])
    returning id)
select count(*) from gone
