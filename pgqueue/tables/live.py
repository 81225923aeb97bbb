"""Live jobs, and who runs them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BIGINT, BOOLEAN, INTEGER, JSONB, SMALLINT, TEXT, UUID

from pgqueue.tables.columns import NOW, TEXTS, TIME, VACUUM_OFTEN, column, nullable


def positions(metadata: sa.MetaData) -> None:
    _sequence(
        metadata, "jobs_position", "Order of availability: a job takes the next position when it becomes available."
    )


def waited_until(metadata: sa.MetaData) -> None:
    _sequence(
        metadata,
        "waited_until",
        "The second, as Unix counts them, up to which somebody may wait for a result: "
        "until then, ends look for those who do.",
    )


def scheduler_seen(metadata: sa.MetaData) -> None:
    _sequence(
        metadata,
        "scheduler_seen",
        "The second, as Unix counts them, in which a scheduler last looked for what is due; 1: none ever did.",
    )


def _sequence(metadata: sa.MetaData, name: str, comment: str) -> None:
    sequence = sa.Sequence(name, data_type=BIGINT, metadata=metadata)
    commented = sa.DDL(  # type: ignore[no-untyped-call]
        f"comment on sequence \"{metadata.schema}\".{name} is '{comment}'"
    )
    sa.event.listen(sequence, "after_create", commented)


def jobs(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "jobs",
        metadata,
        sa.Column(
            "id", BIGINT, sa.Identity(), comment="Identity of the job; kept when it ends and when it is redriven."
        ),
        nullable(
            "position",
            BIGINT,
            "Place in its lane (queue and priority): taken when the job becomes available, "
            "kept while it runs, null otherwise.",
        ),
        nullable(
            "ready",
            BIGINT,
            "Place among the jobs of its queue that a limit has let go: taken when it is let go, kept while it runs, "
            "null otherwise.",
        ),
        nullable("claim_id", BIGINT, "The fence: id of the claim that runs the job; null unless running."),
        nullable("flow_id", BIGINT, "Its flow; null: it is in none, and nothing waits for it."),
        column("run_at", TIME, "Not before this time.", NOW),
        column("created_at", TIME, "When the job was enqueued.", NOW),
        column("attempt", INTEGER, "Attempts used, the running one included.", "0"),
        column("max_attempts", INTEGER, "Attempts before the job goes to failed_jobs; counts the first run.", "25"),
        nullable(
            "aged",
            INTEGER,
            "How many priorities sooner it stands than it was enqueued, since it has waited; null: none.",
        ),
        column("priority", SMALLINT, "Lower runs first; 0 is normal.", "0"),
        column(
            "crashes",
            SMALLINT,
            "Attempts during which the process died while it ran this job alone; three send it to failed_jobs.",
            "0",
        ),
        column(
            "suspicions",
            SMALLINT,
            "Worker deaths that this job shared with other jobs; from two on it runs alone.",
            "0",
        ),
        column(
            "cancel_requested",
            BOOLEAN,
            "True once somebody cancelled the job while it was running: it will not be retried.",
            "false",
        ),
        column("state", TEXT, "scheduled (later), available, running, or blocked."),
        column("queue", TEXT, "Name of its queue."),
        column("task", TEXT, "Name of the registered function."),
        nullable("unique_key", TEXT, "At most one live job of a queue has this key."),
        nullable("serial_key", TEXT, "Jobs of a queue with the same key run one at a time, in order."),
        nullable(
            "waits_for",
            TEXT,
            "The gate that it is parked at, or that has let it go; children: it waits for other jobs of its flow.",
        ),
        column("args", JSONB, "Arguments by name, a JSON object.", "'{}'"),
        nullable("options", JSONB, "Overrides of this one job: timeout in seconds."),
        nullable("headers", JSONB, "Metadata for the run: trace context, schedule, scheduled_for."),
        nullable(
            "errors",
            JSONB,
            "Error of each attempt that did not complete, oldest first: "
            "attempt, at, type, message, traceback, worker. The last 100.",
        ),
        nullable("tags", TEXTS, "Labels for people and filters."),
        nullable("places", TEXTS, "Gates at which it has a place."),
        sa.PrimaryKeyConstraint("id", name="jobs_pkey"),
        sa.CheckConstraint("state in ('scheduled', 'available', 'running', 'blocked')", name="jobs_state_check"),
        sa.CheckConstraint("jsonb_typeof(args) = 'object'", name="jobs_args_check"),
        sa.CheckConstraint("max_attempts >= 1", name="jobs_max_attempts_check"),
        sa.Index("jobs_claim", "queue", "priority", "position", postgresql_where=sa.text("position is not null")),
        sa.Index(
            "jobs_due",
            "queue",
            "run_at",
            postgresql_where=sa.text("position is null and ready is null and waits_for is null"),
        ),
        sa.Index("jobs_ready", "queue", "priority", "ready", postgresql_where=sa.text("ready is not null")),
        sa.Index(
            "jobs_parked",
            "waits_for",
            "priority",
            "id",
            postgresql_where=sa.text("waits_for is not null and ready is null"),
        ),
        sa.Index(
            "jobs_serial_key",
            "queue",
            "serial_key",
            postgresql_where=sa.text("serial_key is not null and position is not null"),
        ),
        sa.Index("jobs_places", "id", postgresql_where=sa.text("places is not null")),
        sa.Index(
            "jobs_unique_key", "unique_key", "queue", unique=True, postgresql_where=sa.text("unique_key is not null")
        ),
        comment="Live jobs only: scheduled, available, running or blocked. "
        "Ended jobs are in completed_jobs and failed_jobs.",
        postgresql_with={"fillfactor": 45, **VACUUM_OFTEN, "autovacuum_analyze_scale_factor": 0.2},
    )


def used_keys(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "used_keys",
        metadata,
        column("job_id", BIGINT, "The job that used it last; its history may be gone."),
        column("expires_at", TIME, "Until then; infinity for good."),
        column("key", TEXT, "The unique key."),
        column("queue", TEXT, "Its queue."),
        sa.PrimaryKeyConstraint("key", "queue", name="used_keys_pkey"),
        sa.Index("used_keys_expires", "expires_at"),
        comment="Unique keys that stay used for a time, or for good, whether their jobs have ended or not.",
    )


def waiters(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "waiters",
        metadata,
        column("job_id", BIGINT, "The job."),
        column("expires_at", TIME, "Until then; who still waits adds a row before."),
        column("channel", TEXT, "Where the waiting process listens."),
        sa.PrimaryKeyConstraint("job_id", "channel", "expires_at", name="waiters_pkey"),
        sa.Index("waiters_expires", "expires_at"),
        comment="Who waits for the result of which job: its end sends a notification to them, and to nobody else.",
        postgresql_with=VACUUM_OFTEN,
    )


def claims(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "claims",
        metadata,
        column("id", BIGINT, "The fence: 63 random bits made by the worker."),
        column("worker_id", UUID, "The worker that claimed."),
        column("claimed_at", TIME, "When.", NOW),
        column("queue", TEXT, "The queue of all its jobs."),
        column("job_ids", ARRAY(BIGINT), "The jobs it took."),
        sa.PrimaryKeyConstraint("id", name="claims_pkey"),
        sa.Index("claims_worker", "worker_id"),
        comment="One row a claimed batch; gone when every job of it has ended or gone back.",
        # A batch's ids fit into the row: compressing them would cost a tenth of the claim.
        postgresql_with={"toast_tuple_target": 8160, **VACUUM_OFTEN},
    )


def lanes(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "lanes",
        metadata,
        sa.Column("id", BIGINT, sa.Identity(), comment="Of the row: a lane may have several."),
        column("mark", BIGINT, "A position: the lane's jobs up to it need not be looked at."),
        column("kept_at", TIME, "When it was written.", NOW),
        column("priority", SMALLINT, "The lane's priority."),
        column(
            "proven",
            BOOLEAN,
            "Whether a worker has seen that nothing is available up to the mark; false where a job above it was "
            "given back.",
        ),
        column("queue", TEXT, "The lane's queue."),
        sa.PrimaryKeyConstraint("id", name="lanes_pkey"),
        sa.Index("lanes_queue", "queue", "priority", "mark"),
        comment="Up to where the lanes of a queue have nothing available, so that nobody walks over dead rows to find "
        "out. The lowest mark counts, where one of the rows is proven: giving a job back adds a row, and waits for "
        "nobody.",
        postgresql_with=VACUUM_OFTEN,
    )


def workers(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "workers",
        metadata,
        column("id", UUID, "Made at each start."),
        column("started_at", TIME, "When the process registered.", NOW),
        column("heartbeat_at", TIME, "Last sign of life.", NOW),
        column("expires_at", TIME, "End of its lease: after this its jobs are rescued."),
        column("pid", INTEGER, "Process id on its host."),
        column("name", TEXT, "Name given with --name, else host and pid."),
        column("host", TEXT, "Host name."),
        column("version", TEXT, "Version of pgqueue."),
        column(
            "state",
            TEXT,
            "running; draining: claims no more, and stops when what runs has ended; or stopping. "
            "Who sets it asks the worker.",
            "'running'",
        ),
        column("queues", JSONB, "Slots by queue."),
        column("tasks", TEXTS, "Tasks that it can run."),
        sa.PrimaryKeyConstraint("id", name="workers_pkey"),
        sa.CheckConstraint("state in ('running', 'draining', 'stopping')", name="workers_state_check"),
        comment="One row a worker process, from its start to its end.",
        postgresql_with={"fillfactor": 50},
    )


def idle_workers(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "idle_workers",
        metadata,
        column("worker_id", UUID, "The worker that found it empty."),
        column("queue", TEXT, "The queue."),
        sa.PrimaryKeyConstraint("queue", "worker_id", name="idle_workers_pkey"),
        comment="Who waits for which queue: an enqueue into one of them sends a notification. Apart from workers, "
        "whose rows are written at each heartbeat.",
        postgresql_with=VACUUM_OFTEN,
    )
