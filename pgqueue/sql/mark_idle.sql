-- A worker waits for jobs of a queue: from now on an enqueue notifies. The lock keeps a burial from coming in between.
with asynchronous as materialized (select set_config('synchronous_commit', 'off', true)),
alive as (select id from {schema}.workers where id = %(worker)s for key share)
insert into {schema}.idle_workers (worker_id, queue)
select id, %(queue)s from alive, asynchronous
on conflict do nothing
returning worker_id
