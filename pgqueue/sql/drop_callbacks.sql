-- blocked -> cancelled: callbacks of batches that are not to run. All of the batch completed, or one has not and never will.
with over as materialized (
    select w.job_id from {schema}.flow_waits w
    where w.waiting and (w.pending <= 0 or w.failing > 0 or w.urgent > 0)
      and w.callback is not null and (w.failing > 0 or w.callback = 'failure' and w.pending <= 0 and w.urgent <= 0)
    order by w.job_id limit %(count)s for update skip locked),
cancelled as materialized (
    select {schema}.cancel(array(select job_id from over), 'its batch came to another end') where exists (select from over)),
done as (
    update {schema}.flow_waits set waiting = false where job_id = any (array(select job_id from over)) returning job_id)
select (select count(*) from over), (select count(*) from done), (select count(*) from cancelled)
