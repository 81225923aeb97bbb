-- Jobs of one lane that may be claimed, locked, for a queue with limits: what begins and what is parked is decided next.
-- Newest first it finds of a serial key only how many are looked at: first_of_keys.sql says which.
with sequence as materialized (
    -- Read before the transaction takes its id, as in claim.sql.
    select last_value - (not is_called)::int as allocated, pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin,
           set_config('synchronous_commit', 'off', true)
    from {schema}.jobs_position
    where not exists (select from {schema}.queues where name = %(queue)s and paused)
      and exists (select from {schema}.workers where id = %(worker)s)),
due as materialized (
    select id, position, task, args::text, serial_key, places, waits_for, max_attempts, priority from {schema}.jobs
    where queue = %(queue)s and priority = %(priority)s and position > %(mark)s and position is not null
      and state = 'available' and task = any (%(tasks)s) and (select allocated from sequence) is not null
    order by position{direction} limit %(count)s for update skip locked)
select case when sequence.allocated > %(known)s then pg_current_xact_id()::text::bigint end, sequence.allocated, sequence.xmin, due.*
from sequence left join due on true
order by due.position{direction}
