-- Of picked jobs with a serial key those that an earlier available job of their key precedes that was not picked, since it is locked.
select f.id from unnest(%(ids)s::bigint[], %(keys)s::text[], %(positions)s::bigint[]) f (id, key, position)
where exists (
    select from {schema}.jobs j
    where j.queue = %(queue)s and j.serial_key = f.key and j.position is not null and j.state = 'available'
      and (j.priority, j.position) < (%(priority)s::smallint, f.position) and not (j.id = any (%(ids)s::bigint[])))
