-- Children of a parent that failed for one of them: the others are cancelled.
with due as materialized (
    select ctid as place, job_id from {schema}.flow_turns where turn = 'cancel' order by random() limit %(count)s),
free as materialized (
    select id from {schema}.jobs where id = any (array(select job_id from due)) order by id for update skip locked),
cancelled as materialized (
    select count(c.id) from (select array_agg(id) as ids from free having count(*) > 0) f,
           {schema}.cancel(f.ids, 'another job that its parent waits for did not complete') c),
done as (
    delete from {schema}.flow_turns
    where ctid = any (array(
        select d.place from due d
        where d.job_id = any (array(select id from free)) or not exists (select from {schema}.jobs j where j.id = d.job_id)))
    returning 1)
select (select count(*) from done), (select count from cancelled)
