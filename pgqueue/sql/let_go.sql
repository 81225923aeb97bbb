-- blocked -> available, in the ready lane of its queue: the first jobs of each gate, as many as it has places reserved.
with chosen as materialized (
    select job.id from unnest(%(gates)s::text[], %(counts)s::int[]) gate (name, count)
    cross join lateral (
        select id from {schema}.jobs j where waits_for = gate.name and ready is null and state = 'blocked'
          -- A place is for who can take it now.
          and not exists (select from {schema}.queues q where q.name = j.queue and q.paused)
          and exists (select from {schema}.workers w where w.queues ? j.queue and j.task = any (w.tasks) and w.expires_at > clock_timestamp())
          -- A serial key's next job is the first, also while somebody has it locked.
          and (gate.name not like 'serial:%%' or id = (
              select id from {schema}.jobs where waits_for = gate.name and ready is null and state = 'blocked' order by priority, id limit 1))
        order by priority, id limit gate.count for update skip locked) job),
freed as (
    update {schema}.jobs
    -- A place is written down only where they are counted.
    set state = 'available', ready = nextval('{schema}.jobs_position'),
        places = case when waits_for = any (%(counted)s::text[]) then places || waits_for else places end
    where id = any (array(select id from chosen)) and state = 'blocked'
    returning queue, waits_for),
woken as (
    select pg_notify(%(channel)s, format('ready %%s', queue)) from freed
    where exists (select from {schema}.idle_workers w where w.queue = freed.queue) group by queue)
select waits_for, count(*), (select count(*) from woken) from freed group by waits_for
