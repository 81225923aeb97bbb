-- blocked -> available | scheduled: jobs that were to go when somebody held them.
with due as materialized (
    select ctid as place, job_id from {schema}.flow_turns where turn = 'release' order by random() limit %(count)s),
over as materialized (
    select w.job_id from {schema}.flow_waits w
    where w.job_id = any (array(select job_id from due)) and {schema}.flow_turn(w) = 'release'
    order by w.job_id for update skip locked),
released as materialized (
    select {schema}.release_waiting(array_agg(job_id)) as ids from over having count(*) > 0),
done as (
    delete from {schema}.flow_turns
    where ctid = any (array(
        select d.place from due d
        where d.job_id = any (array(select unnest(ids) from released))
           -- It was cancelled or deleted, or waits on; who changes that says so anew.
           or not exists (select from {schema}.jobs j where j.id = d.job_id and j.state = 'blocked' and j.waits_for = 'children')
           or not exists (select from {schema}.flow_waits w where w.job_id = d.job_id and {schema}.flow_turn(w) = 'release')))
    returning 1)
select count(*) from done
