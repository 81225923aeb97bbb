-- The state of gates after a decision; they are locked. Times are seconds from `now`.
update {schema}.gates g
set taken = s.taken, waiting = s.waiting, loose = s.loose,
    next_at = case when s.next_at > -1e9 then %(now)s::timestamptz + make_interval(secs => s.next_at) end
from unnest(%(names)s::text[], %(taken)s::int[], %(waiting)s::int[], %(loose)s::int[], %(next_at)s::float8[])
     s (name, taken, waiting, loose, next_at)
where g.name = s.name
