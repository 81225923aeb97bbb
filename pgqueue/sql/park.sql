-- available -> blocked: out of the lanes, until the gate lets it go. `places` are those that it keeps, as JSON.
update {schema}.jobs
set state = 'blocked', position = null, ready = null, (waits_for, places) = (
    select (%(gates)s::text[])[n], nullif(array(select jsonb_array_elements_text((%(places)s::text[])[n]::jsonb)), '{{}}')
    from (select width_bucket(id, %(ids)s::bigint[]) as n offset 0) place)
where id = any (%(ids)s::bigint[]) and state = 'available'
