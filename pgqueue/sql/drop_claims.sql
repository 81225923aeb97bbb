-- Claims whose jobs have all ended or gone back. A statement of its own: nobody locks claims before jobs.
with asynchronous as materialized (select set_config('synchronous_commit', 'off', true))
delete from {schema}.claims c using asynchronous
where c.id = any (%(fences)s::bigint[])
  and not exists (select from {schema}.jobs j where j.id = any (c.job_ids) and j.claim_id = c.id)
returning c.id
