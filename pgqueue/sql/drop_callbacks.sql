-- blocked -> cancelled: callbacks of batches that are not to run. All of the batch completed, or one has not and never will.
with due as materialized (
    select ctid as place, job_id from {schema}.flow_turns where turn = 'drop' order by random() limit %(count)s),
over as materialized (
    select w.job_id from {schema}.flow_waits w
    where w.job_id = any (array(select job_id from due)) and {schema}.flow_turn(w) = 'drop'
    order by w.job_id for update skip locked),
free as materialized (
    -- Somebody may hold one: the others need not wait for it. What has ended has no row.
    select o.job_id from over o where not exists (select from {schema}.jobs j where j.id = o.job_id)
    union all
    select id from (select id from {schema}.jobs where id = any (array(select job_id from over)) order by id for update skip locked) j),
skipped as materialized (
    select {schema}.skip_callbacks(array_agg(job_id)) as ids from free having count(*) > 0),
done as (
    delete from {schema}.flow_turns
    where ctid = any (array(
        select d.place from due d
        where d.job_id = any (array(select unnest(ids) from skipped))
           or not exists (select from {schema}.flow_waits w where w.job_id = d.job_id and {schema}.flow_turn(w) = 'drop')))
    returning 1)
select count(*) from done
