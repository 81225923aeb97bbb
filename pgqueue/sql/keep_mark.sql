-- Moves the kept mark of a lane up to `proven`, but not past a job that is available; `whole` looks below it too.
-- Nobody can still add one there: `proven` is the mark of a claimer. A job that is given back meanwhile adds a row of its own.
with kept as materialized (
    select id, mark, proven from {schema}.lanes where queue = %(queue)s and priority = %(priority)s),
-- A mark beyond the last position is of another life of the sequence.
last as materialized (select last_value as position from {schema}.jobs_position),
base as materialized (
    select coalesce(case when bool_or(proven) then min(mark) end, 0) as mark from kept, last where mark <= last.position),
waiting as materialized (
    select position from {schema}.jobs
    where queue = %(queue)s and priority = %(priority)s and position is not null
      and position <= greatest(%(proven)s, (select mark from base))
      and position > case when %(whole)s then 0 else (select mark from base) end and state = 'available'
    order by position limit 1),
free as materialized (
    select least(greatest(%(proven)s, base.mark), (select position - 1 from waiting)) as mark from base),
moved as (
    insert into {schema}.lanes (queue, priority, mark, proven)
    select %(queue)s, %(priority)s, free.mark, true from base cross join free cross join last
    where %(proven)s <= last.position
      and (free.mark >= base.mark + %(least)s or free.mark < base.mark or (select count(*) from kept) > 1)
    returning mark),
gone as (
    delete from {schema}.lanes where id = any (array(select id from kept)) and exists (select from moved))
select coalesce((select mark from moved), base.mark) from base
