-- Moves the kept mark of a lane up to `proven`, but not past a job that is available; `whole` looks below it too.
-- Nobody can still add one there: `proven` is the mark of a claimer. A job that is given back meanwhile adds a row of its own.
with kept as materialized (
    select id, mark from {schema}.lanes where queue = %(queue)s and priority = %(priority)s),
base as materialized (select coalesce(min(mark), 0) as mark from kept),
waiting as materialized (
    select position from {schema}.jobs
    where queue = %(queue)s and priority = %(priority)s and position is not null and position <= %(proven)s
      and position > case when %(whole)s then 0 else (select mark from base) end and state = 'available'
    order by position limit 1),
free as materialized (select least(%(proven)s, (select position - 1 from waiting)) as mark),
moved as (
    insert into {schema}.lanes (queue, priority, mark)
    select %(queue)s, %(priority)s, free.mark from base cross join free
    where free.mark >= base.mark + %(least)s or (select position from waiting) <= base.mark
    returning mark),
gone as (
    delete from {schema}.lanes where id = any (array(select id from kept)) and exists (select from moved))
select coalesce((select mark from moved), base.mark) from base
