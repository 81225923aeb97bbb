-- running -> available, in its old place, the attempt given back: jobs that had not started, or whose worker died among others.
with released as (
    update {schema}.jobs j
    set state = 'available', claim_id = null, attempt = attempt - 1, suspicions = least(suspicions + %(suspected)s, 100),
        -- Its other places are freed by the next statement, see gates.free_held.
        places = case when places is not null then nullif(array(select p from unnest(places) p where p like 'serial:%%'), '{{}}') end
    where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[]) and not cancel_requested
      -- Nor for one that gave its unique key to another: see take_keys_back.
      and not coalesce(j.options ? 'yields_to', false)
    returning id, queue, priority, position),
kept as (
    -- They lie below the marks: the kept ones, and those of the claimers.
    insert into {schema}.lanes (queue, priority, mark, proven)
    select queue, priority, min(position) - 1, false from released where position is not null group by queue, priority),
woken as (
    select pg_notify(%(channel)s, case when min(position) is null then format('ready %%s', queue)
                                       else format('available %%s %%s %%s', queue, priority, min(position)) end)
    from released group by queue, priority, position is null)
-- Not a left join: the planner would leave it out, and the notifications with it.
select released.id from released cross join (select count(*) from woken) w
