-- available -> running, for jobs that every gate has let through. `places` are those to be freed at the end, as JSON.
with taken as (
    update {schema}.jobs
    set state = 'running', attempt = attempt + 1, claim_id = %(fence)s, waits_for = null,
        places = (select nullif(array(select jsonb_array_elements_text((%(places)s::text[])[n]::jsonb)), '{{}}')
                  from (select width_bucket(id, %(ids)s::bigint[]) as n offset 0) place)
    where id = any (%(ids)s::bigint[]) and state = 'available'
    returning id, coalesce(position, ready), task, args::text, attempt, max_attempts, crashes, suspicions, options::text, headers::text,
              flow_id is null and places is null as plain{ages}),
kept as (
    insert into {schema}.claims (id, worker_id, queue, job_ids)
    select %(fence)s, %(worker)s, %(queue)s, array_agg(id) from taken having count(*) > 0)
select * from taken order by 2
