-- The lanes of a queue, the mark that is kept of each, and the first job that waits there: what a sweep rewinds the marks to.
select l.priority, l.mark,
       (select j.position from {schema}.jobs j
        where j.queue = %(queue)s and j.priority = l.priority and j.position > l.mark and j.position is not null
          and j.state = 'available' and j.task = any (%(tasks)s)
        order by j.position limit 1)
from {schema}.lanes_of(%(queue)s) l
union all
-- Not a lane: jobs that a limit has let go.
select null, 0, null where exists (
    select from {schema}.jobs where queue = %(queue)s and ready is not null and state = 'available' and task = any (%(tasks)s))
order by 1
