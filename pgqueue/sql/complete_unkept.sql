-- running -> gone: completed, in a queue or a task that keeps no history.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s) and claim_id = any (%(fences)s)
    returning id)
select count(*) from gone
