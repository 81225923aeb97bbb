-- Renews a worker's lease. Never inserts: a worker whose row is gone has lost its jobs.
update {schema}.workers set heartbeat_at = clock_timestamp(), expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
where id = %(worker)s
returning id
