-- The lanes of a queue in which something waits, and where each begins: what a sweep rewinds the marks to.
with recursive lanes as (
    (select priority from {schema}.jobs where queue = %(queue)s and position is not null order by priority limit 1)
    union all
    select (select j.priority from {schema}.jobs j
            where j.queue = %(queue)s and j.position is not null and j.priority > lanes.priority order by j.priority limit 1)
    from lanes where lanes.priority is not null)
select priority, first.position
from lanes cross join lateral (
    select j.position from {schema}.jobs j
    where j.queue = %(queue)s and j.priority = lanes.priority and j.position is not null and j.state = 'available'
      and j.task = any (%(tasks)s)
    order by j.position limit 1) first
where priority is not null
