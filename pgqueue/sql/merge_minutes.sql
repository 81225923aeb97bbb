-- Figures of a minute that has some already are added to them.
    on conflict (minute, queue, task) do update
    set completed = m.completed + excluded.completed, failed = m.failed + excluded.failed, retried = m.retried + excluded.retried,
        snoozed = m.snoozed + excluded.snoozed, cancelled = m.cancelled + excluded.cancelled,
        run_seconds = m.run_seconds + excluded.run_seconds, wait_seconds = m.wait_seconds + excluded.wait_seconds,
        runs = {schema}.add_counts(m.runs, excluded.runs), waits = {schema}.add_counts(m.waits, excluded.waits)
