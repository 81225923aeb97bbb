-- The state of gates after a decision; they are locked. Times are seconds since 1970.
update {schema}.gates g
set taken = s.taken, waiting = s.waiting, loose = s.loose, next_at = case when s.next_at > 0 then to_timestamp(s.next_at) end
from unnest(%(names)s::text[], %(taken)s::int[], %(waiting)s::int[], %(loose)s::int[], %(next_at)s::float8[])
     s (name, taken, waiting, loose, next_at)
where g.name = s.name
