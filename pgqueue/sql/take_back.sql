-- The time, and the places that have been freed at gates that are locked: also read after the wait for their locks.
with freed as (delete from {schema}.freed_places where gate = any (%(names)s::text[]) returning gate, loose, places)
select extract(epoch from clock_timestamp())::float8, freed.gate, freed.loose, freed.places from (select) one left join freed on true
