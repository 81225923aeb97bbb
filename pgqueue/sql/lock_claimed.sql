-- The jobs of a stuck finish that nobody else has locked: they can end now, the others later.
select id from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[]) order by id for update skip locked
