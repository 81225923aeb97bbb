-- Workers whose lease has ended are no more: their next heartbeat finds no row.
delete from {schema}.workers
where id in (select id from {schema}.workers where expires_at < clock_timestamp() order by id for update skip locked)
returning id, name, host, pid
