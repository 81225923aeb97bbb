-- running -> gone: completed, in a queue or a task that keeps no history.
with gone as (
    delete from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[])
    returning places),
freed as (
    insert into {schema}.freed_places (gate, loose, places)
    select place, false, count(*) from gone, unnest(places) place where places is not null group by place)
select count(*) from gone
