-- blocked -> cancelled: callbacks of batches that are not to run. All of the batch completed, or one has not and never will.
with over as materialized (
    select w.job_id from {schema}.flow_waits w
    where w.waiting and (w.pending <= 0 or w.failing > 0 or w.urgent > 0)
      and w.callback is not null and (w.failing > 0 or w.callback = 'failure' and w.pending <= 0 and w.urgent <= 0)
    order by w.job_id limit %(count)s for update skip locked)
select count(*), coalesce(case when count(*) > 0 then {schema}.skip_callbacks(array_agg(job_id)) end, 0) from over
