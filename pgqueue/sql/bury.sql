-- Workers whose lease has ended are no more: their next heartbeat finds no row.
with buried as (
    delete from {schema}.workers
    where id in (select id from {schema}.workers where expires_at < clock_timestamp() order by id for update skip locked)
    returning id, name, host, pid),
idle as (
    delete from {schema}.idle_workers i
    where i.worker_id in (select id from buried)
       -- One that recorded itself while it was buried.
       or not exists (select from {schema}.workers w where w.id = i.worker_id))
select id, name, host, pid from buried
