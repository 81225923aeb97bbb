-- The time, and the places that have been freed at gates that are locked: also read after the wait for their locks.
with freed as (delete from {schema}.freed_places where gate = any (%(names)s::text[]) returning gate, loose, places)
-- Each loose one was a job with one place, or with none: where it had none, that of the row that says so is taken first.
select extract(epoch from clock_timestamp())::float8, f.gate, f.loose, f.places
from (select) one left join (
    select gate, false as loose, places - loose::int as places from freed
    union all
    select gate, true, 1 from freed where loose) f on true
order by f.loose
