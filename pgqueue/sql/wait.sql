-- A process waits for the end of jobs: from now on that sends it a notification.
with asynchronous as materialized (select set_config('synchronous_commit', 'off', true)),
-- Seen by all at once, and written once a minute: until then ends look for those who wait.
announced as (
    select setval('{schema}.waited_until', due + 60)
    from (select ceil(extract(epoch from clock_timestamp() + %(expires)s::interval))::bigint as due) d
    where due > (select last_value from {schema}.waited_until))
-- Later again in a row of its own: one that is renewed in place is locked, and the end of its job would wait for it.
insert into {schema}.waiters (job_id, channel, expires_at)
select j.id, %(channel)s, clock_timestamp() + %(expires)s::interval
from {schema}.jobs j, asynchronous, (select count(*) from announced) a
where j.id = any (%(ids)s::bigint[]) and not exists (
    select from {schema}.waiters w
    where w.job_id = j.id and w.channel = %(channel)s and w.expires_at > clock_timestamp() + %(expires)s::interval / 2)
