-- The role that dashboards and autoscalers read with: states and times of jobs, without arguments, results or texts of
-- errors. By a role that may create roles and owns the tables, and again after each `pgqueue migrate`, which may make a
-- view anew; its password is set apart:
--   psql -f role.sql
--   psql -c "alter role pgqueue_viewer password '…'"
do $$
begin
    if not exists (select from pg_roles where rolname = 'pgqueue_viewer') then
        create role pgqueue_viewer login;
    end if;
end
$$;
alter role pgqueue_viewer set default_transaction_read_only = on;
alter role pgqueue_viewer set statement_timeout = '15s';
-- So that it sees who holds an old snapshot. It sees the texts of running statements too: leave it out where it must not.
grant pg_read_all_stats to pgqueue_viewer;

grant usage on schema pgqueue to pgqueue_viewer;
grant select on pgqueue.queue_stats, pgqueue.workers, pgqueue.rescues to pgqueue_viewer;
grant select (id, state, queue, task, priority, attempt, max_attempts, created_at, run_at, started_at, ended_at, worker_id)
    on pgqueue.all_jobs to pgqueue_viewer;
grant select (id, queue, task, attempt, max_attempts, claimed_at, held_for, cancel_requested, worker_id, worker, host, pid, lease_until)
    on pgqueue.running_jobs to pgqueue_viewer;
grant select (id, queue, task, attempt, reason, error_type, fingerprint, created_at, started_at, failed_at, worker_id)
    on pgqueue.failed_jobs to pgqueue_viewer;
grant select (name, task, queue, cron, every, tz, enabled, next_run_at, last_run_at, last_job_id, error)
    on pgqueue.schedules to pgqueue_viewer;
-- Of live jobs what autoscalers count.
grant select (id, state, queue, task, priority, run_at, position, ready, waits_for) on pgqueue.jobs to pgqueue_viewer;
grant select (name, paused) on pgqueue.queues to pgqueue_viewer;
