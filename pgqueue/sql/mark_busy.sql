-- A worker has been busy with a queue for a while: it finds jobs without being told.
with asynchronous as materialized (select set_config('synchronous_commit', 'off', true))
delete from {schema}.idle_workers i using asynchronous
where i.worker_id = %(worker)s and i.queue = %(queue)s
returning i.worker_id
