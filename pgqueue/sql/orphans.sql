-- Jobs that a worker without a row still holds.
select c.worker_id, c.id, c.queue, j.id, coalesce(t.alias_of, j.task), j.attempt, j.max_attempts, j.crashes, j.suspicions,
       extract(epoch from clock_timestamp() - c.claimed_at)::float8
from {schema}.claims c
left join lateral (
    select j.id, j.task, j.attempt, j.max_attempts, j.crashes, j.suspicions from {schema}.jobs j
    where j.id = any (c.job_ids) and j.claim_id = c.id) j on true
left join {schema}.tasks t on t.name = j.task
where not exists (select from {schema}.workers w where w.id = c.worker_id)
order by c.worker_id
