-- Jobs that a limit has let go, locked, for `decide`. Those of other tasks are left to workers that know them.
select id, ready, task, args::text, serial_key, places, waits_for, max_attempts, priority from {schema}.jobs
where queue = %(queue)s and ready is not null and state = 'available' and task = any (%(tasks)s)
  and not exists (select from {schema}.queues where name = %(queue)s and paused)
  and exists (select from {schema}.workers where id = %(worker)s)
order by priority, ready limit %(count)s for update skip locked
