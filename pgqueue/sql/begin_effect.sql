-- A key is taken by a call that begins, in a job that still carries its claim. Waits for a transaction that takes it too.
insert into {schema}.effects (key, request, job_id, fence)
select %(key)s, %(request)s, j.id, j.claim_id from {schema}.jobs j where j.id = %(job_id)s and j.claim_id = %(fence)s
on conflict (key) do nothing
returning key
