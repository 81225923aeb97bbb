-- Of each serial key the first available jobs of the lane, locked, as many as the newest first of pick.sql were: their turn is first.
select first.*
from unnest(%(keys)s::text[], %(counts)s::int[]) wanted (key, count)
cross join lateral (
    select id, position, task, args::text, serial_key, places, waits_for, max_attempts, priority from {schema}.jobs j
    where j.queue = %(queue)s and j.serial_key = wanted.key and j.priority = %(priority)s and j.position is not null
      and j.state = 'available' and j.task = any (%(tasks)s)
    order by j.position limit wanted.count for update skip locked) first
