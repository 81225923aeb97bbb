-- What a key stands for that is taken: a call that is done, or one under way while its job carries its claim.
select e.job_id, e.fence, e.request, e.result::text, e.problem, e.done_at is not null,
       exists (select from {schema}.jobs j where j.id = e.job_id and j.claim_id = e.fence),
       exists (select from {schema}.jobs j where j.id = %(job_id)s and j.claim_id = %(fence)s)
from (select) one left join {schema}.effects e on e.key = %(key)s
