create function {schema}.queue_name(name text) returns text language plpgsql immutable as $function$
begin
    if name is null or name !~ '^[A-Za-z0-9._][A-Za-z0-9._-]{{0,99}}$' then
        raise exception 'queue name % is not valid', quote_nullable(name) using errcode = '22023',
            hint = 'Use at most 100 letters, digits and . _ - ; the name does not begin with a hyphen.';
    end if;
    return name;
end
$function$;
comment on function {schema}.queue_name is 'The name, if it can be that of a queue.';

-- The unique or serial key of a job whose task has one: {{name}} stands for an argument, doubled braces for a brace. As filled() in Python.
create function {schema}.fill_key(template text, args jsonb) returns text language plpgsql immutable as $function$
declare
    filled text := '';
    piece text;
    name text;
    kind text;
begin
    if template is null then
        return null;
    end if;
    for piece in select m[1] from regexp_matches(template, '[{{][{{]|[}}][}}]|[{{][^{{}}]*[}}]|[^{{}}]+|[{{}}]', 'g') with ordinality p (m, n) order by n loop
        if piece in ('{{', '}}') then
            raise exception 'the key % is no template', quote_literal(template) using errcode = '22023',
                hint = 'Name arguments in braces, as in {{customer_id}}; a brace that is meant is doubled.';
        elsif piece in ('{{{{', '}}}}') then
            filled := filled || left(piece, 1);
        elsif left(piece, 1) = '{{' then
            name := btrim(piece, '{{}}');
            kind := jsonb_typeof(args -> name);
            if kind is null then
                raise exception 'the key % cannot be filled from the arguments %', quote_literal(template), left(args::text, 200)
                    using errcode = '22023', hint = 'Pass every argument that the key names, or give the key itself.';
            elsif kind in ('array', 'object') or kind = 'number' and args ->> name ~ '[^-0-9]' then
                raise exception 'the key % cannot be filled with %: %', quote_literal(template), quote_literal(name), left(args ->> name, 60)
                    using errcode = '22023',
                    hint = 'A key is made of text, whole numbers and booleans: pass the argument as one of those, or give the key itself.';
            end if;
            filled := filled || coalesce(args ->> name, 'None');
        else
            filled := filled || piece;
        end if;
    end loop;
    return filled;
end
$function$;
comment on function {schema}.fill_key is 'Fills the template of a task''s unique or serial key with arguments.';

-- More than 65 levels, which Python would not read: arguments are an object of values of 64. Brackets are counted first, which is cheap.
create function {schema}.too_deep(value jsonb) returns boolean language sql immutable as $function$
    select case when length(value::text) - length(translate(value::text, '[{{', '')) > 65
                then jsonb_path_exists(value, 'strict $.**{{65}} ? (@.type() == "array" || @.type() == "object")')
                else false end;
$function$;
comment on function {schema}.too_deep is 'Whether JSON nests deeper than arguments may.';

-- Who has begun once keeps its serial key until it has ended.
create function {schema}.places_kept(places text[], attempt integer, waits_for text) returns text[] language sql immutable as $function$
    select case when attempt > 0 or waits_for is null then nullif(array(select p from unnest(places) p where p like 'serial:%'), '{{}}') end;
$function$;
comment on function {schema}.places_kept is 'Of the places of a job those that it keeps when it is to wait again for its time: the serial key of one that has begun once, redriven or not.';

-- Rows of freed_places. Who was let go where no places are counted gives none back, but is on its way no more.
create function {schema}.places_freed(places text[], kept text[], waits_for text, ready bigint)
returns table (gate text, loose boolean, places integer) language sql immutable as $function$
    select p, p is not distinct from waits_for and ready is not null, 1 from unnest(places_freed.places) p
    where not p = any (coalesce(kept, '{{}}'))
    union all
    select waits_for, true, 0
    where waits_for is not null and ready is not null
      and (waits_for = any (kept) or not waits_for = any (coalesce(places_freed.places, '{{}}')));
$function$;
comment on function {schema}.places_freed is 'What a job that waits no more where it did gives back, as rows of freed_places; kept are those of its places that it keeps.';

-- One job, its options checked before. `fallback_priority` and `fallback_attempts` count where neither job, task nor queue says.
create function {schema}.enqueue_job(
    task text, args jsonb, queue text, run_at timestamptz, priority integer, key text, serial_key text, max_attempts integer,
    options jsonb, tags text[], headers jsonb, on_conflict text, keep_key interval, fallback_priority integer, fallback_attempts integer,
    flow bigint, waits boolean,
    out id bigint, out created boolean, out refused boolean, out lane text, out rank smallint, out attempts integer, out due timestamptz,
    out created_at timestamptz, out available boolean, out unique_key text, out order_key text
) language plpgsql security definer set search_path = {schema}, pg_catalog, pg_temp as $function$
#variable_conflict use_column
declare
    known record;
    settings record;
    holder record;
    place bigint;
    used bigint;
    conflict text;
    kept interval;
    places_left text[];
    is_parent boolean;
begin
    select t.* into known from {schema}.tasks t where t.name = enqueue_job.task;
    lane := coalesce(enqueue_job.queue, known.queue, 'default');
    select q.* into settings from {schema}.queues q where q.name = lane;
    rank := coalesce(enqueue_job.priority, known.priority, settings.priority, fallback_priority);
    attempts := coalesce(enqueue_job.max_attempts, known.max_attempts, settings.max_attempts, fallback_attempts);
    due := coalesce(enqueue_job.run_at, clock_timestamp());
    unique_key := coalesce(enqueue_job.key, {schema}.fill_key(known.unique_key, enqueue_job.args));
    order_key := coalesce(enqueue_job.serial_key, {schema}.fill_key(known.serial_key, enqueue_job.args));
    if length(unique_key) not between 1 and 500 or length(order_key) not between 1 and 500 then
        raise exception 'a key of task % has % characters', enqueue_job.task, greatest(length(unique_key), length(order_key))
            using errcode = '22023', hint = 'A key has 1 to 500 characters: name shorter arguments in its template.';
    end if;
    conflict := coalesce(enqueue_job.on_conflict, known.on_conflict, 'skip');
    kept := case when enqueue_job.on_conflict is null then coalesce(enqueue_job.keep_key, known.keep_key) else enqueue_job.keep_key end;
    if conflict = 'keep_last_if_running' then
        -- The one that waits does not begin before the one that runs has ended.
        order_key := coalesce(order_key, left('unique:' || unique_key, 500));
    end if;
    perform pg_current_xact_id();
    id := nextval('{schema}.jobs_id_seq');

    if unique_key is not null and kept is not null then
        insert into {schema}.used_keys as u (queue, key, job_id, expires_at)
        values (lane, unique_key, id, case when kept > interval '100 years' then 'infinity' else clock_timestamp() + kept end)
        on conflict on constraint used_keys_pkey do update set job_id = excluded.job_id, expires_at = excluded.expires_at
            where u.expires_at <= clock_timestamp()
        returning u.job_id into used;
        if used is null then
            -- A waiting job is changed all the same; a new one is not made.
            select j.id into used from {schema}.jobs j
            where conflict not in ('skip', 'error') and j.unique_key = enqueue_job.unique_key and j.queue = lane and j.state <> 'running';
            if used is null then
                select u.job_id into id from {schema}.used_keys u where u.queue = lane and u.key = unique_key;
                created := false;
                refused := conflict = 'error';
                return;
            end if;
        end if;
    end if;

    loop
        place := case when due <= clock_timestamp() and not waits then nextval('{schema}.jobs_position') end;
        insert into {schema}.jobs as j (id, queue, task, args, state, priority, position, run_at, max_attempts, unique_key, serial_key, options,
                                        tags, headers, flow_id, waits_for)
        values (enqueue_job.id, lane, enqueue_job.task, enqueue_job.args,
                case when waits then 'blocked' when place is null then 'scheduled' else 'available' end, rank,
                place, due, attempts, enqueue_job.unique_key, order_key, enqueue_job.options, enqueue_job.tags, enqueue_job.headers,
                flow, case when waits then 'children' end)
        on conflict (unique_key, queue) where unique_key is not null do nothing
        returning j.created_at into created_at;
        if found then
            created := true;
            exit;
        end if;
        select j.id, j.state, j.task, j.places, j.attempt, j.ready, j.waits_for into holder
        from {schema}.jobs j where j.unique_key = enqueue_job.unique_key and j.queue = lane;
        continue when not found;
        if conflict not in ('skip', 'error') then
            -- What it does with the holder depends on its state, which must stay.
            select j.id, j.state, j.task, j.places, j.attempt, j.ready, j.waits_for into holder
            from {schema}.jobs j where j.id = holder.id and j.unique_key = enqueue_job.unique_key for update;
            continue when not found;
            if holder.state = 'running' then
                -- It gives its key to the new one, and does not run again.
                update {schema}.jobs j
                set unique_key = null, options = coalesce(j.options, '{{}}') || jsonb_build_object('yields_to', enqueue_job.unique_key, 'heir', enqueue_job.id)
                where j.id = holder.id;
                continue;
            end if;
        end if;
        created := false;
        exit;
    end loop;

    if not created then
        if kept is not null then
            update {schema}.used_keys u set job_id = holder.id where u.queue = lane and u.key = unique_key;
        end if;
        id := holder.id;
        -- The job that is there would not wait for those for which this one is to wait.
        refused := conflict = 'error' or waits and conflict in ('replace', 'keep_last_if_running');
        if refused and kept is not null then
            -- What was refused uses no key up.
            delete from {schema}.used_keys u where u.queue = lane and u.key = unique_key;
        end if;
        if refused or conflict = 'skip' then
            return;
        end if;
        if conflict <> 'reschedule' then
            update {schema}.jobs j
            set task = enqueue_job.task, args = enqueue_job.args,
                options = case when j.options ? 'children' then coalesce(enqueue_job.options, '{{}}') || '{{"children": true}}'
                               else enqueue_job.options end,
                tags = enqueue_job.tags,
                headers = enqueue_job.headers, max_attempts = attempts, serial_key = order_key,
                attempt = 0, crashes = 0, suspicions = 0, errors = null
            where j.id = holder.id;
            -- Its steps were those of the arguments before.
            delete from {schema}.job_steps s where s.job_id = holder.id;
        end if;
        if conflict = 'keep_last_if_running' then
            -- It keeps its time and its place.
            return;
        end if;
        is_parent := holder.waits_for is not distinct from 'children';
        holder.waits_for := nullif(holder.waits_for, 'children');
        places_left := case when conflict = 'reschedule' then {schema}.places_kept(holder.places, holder.attempt, holder.waits_for) end;
        if is_parent then
            place := null;
        end if;
        update {schema}.jobs j
        set run_at = due, state = case when is_parent then 'blocked' when place is null then 'scheduled' else 'available' end,
            -- Who is to wait again does so at its own priority.
            priority = case when conflict = 'replace' then rank when place is null then j.priority + coalesce(j.aged, 0) else j.priority end,
            aged = case when conflict = 'reschedule' and place is not null then j.aged end,
            -- In a lane that is another it has no place yet.
            position = case when place is null then null
                            when conflict = 'replace' and j.priority <> rank then place else coalesce(j.position, place) end,
            ready = null, waits_for = case when is_parent then 'children' end, places = places_left
        where j.id = holder.id returning j.position, j.priority into place, rank;
        insert into {schema}.freed_places (gate, loose, places)
        select f.gate, f.loose, f.places from {schema}.places_freed(holder.places, places_left, holder.waits_for, holder.ready) f;
        if found then
            perform pg_notify('{channel}', 'limits');
        end if;
    end if;
    available := place is not null;
    if exists (select from {schema}.idle_workers w where w.queue = lane) then
        perform pg_notify('{channel}', case when place is null then format('scheduled %s', lane)
                                        else format('available %s %s %s', lane, rank, place) end);
    end if;
end
$function$;
revoke all on function {schema}.enqueue_job from public;
comment on function {schema}.enqueue_job is 'What enqueue does once the options are checked.';

-- Running jobs that gave their unique key to another which is gone have it again, if nobody has it now.
create function {schema}.take_keys_back(job_ids bigint[], fences bigint[]) returns setof bigint language plpgsql as $function$
declare
    heirless bigint;
begin
    for heirless in
        select j.id from {schema}.jobs j
        where j.id = any (job_ids) and j.claim_id = any (fences) and j.options ? 'yields_to' and not j.cancel_requested
          -- It may have given the key away in its turn.
          and not exists (select from {schema}.jobs h where h.id = (j.options ->> 'heir')::bigint)
        order by j.id for update
    loop
        begin
            update {schema}.jobs j
            set unique_key = j.options ->> 'yields_to', options = nullif(j.options - array['yields_to', 'heir'], '{{}}')
            where j.id = heirless;
            return next heirless;
        exception when unique_violation then
            null;
        end;
    end loop;
end
$function$;
comment on function {schema}.take_keys_back is 'Gives running jobs back the unique keys that they gave to jobs which are gone; returns the ids of those that have them.';

-- One job, from SQL: from psql, from a trigger, from another language. Returns its id, or the id of the job that holds the key.
create function {schema}.enqueue(
    task text, args jsonb default '{{}}', queue text default null, run_at timestamptz default null,
    delay interval default null, priority integer default null, key text default null,
    serial_key text default null, max_attempts integer default null, timeout double precision default null,
    tags text[] default null, headers jsonb default null, on_conflict text default null, keep_key interval default null
) returns bigint language plpgsql security definer set search_path = {schema}, pg_catalog, pg_temp as $function$
#variable_conflict use_column
declare
    made record;
    problem text;
begin
    if enqueue.task is null or enqueue.task !~ '^[A-Za-z0-9._][A-Za-z0-9._-]{{0,99}}$' then
        raise exception 'task name % is not valid', quote_nullable(enqueue.task) using errcode = '22023',
            hint = 'Use at most 100 letters, digits and . _ - ; the name does not begin with a hyphen.';
    end if;
    if jsonb_typeof(coalesce(enqueue.args, 'null')) <> 'object' then
        raise exception 'args of task % must be a JSON object, not %', enqueue.task,
            coalesce(jsonb_typeof(enqueue.args), 'null') using errcode = '22023',
            hint = 'Pass arguments by name: ''{{"to": "a@b.c"}}''.';
    end if;
    if octet_length(enqueue.args::text) > 1048576 then
        raise exception 'args of task % have % bytes; the limit is 1048576', enqueue.task, octet_length(enqueue.args::text)
            using errcode = '22023', hint = 'Store the data, and pass its key.';
    end if;
    problem := case when {schema}.too_deep(enqueue.args) then 'args' when {schema}.too_deep(enqueue.headers) then 'headers' end;
    if problem is not null then
        raise exception '% of task % nest deeper than 65 levels', problem, enqueue.task
            using errcode = '22023', hint = 'Flatten them, or store the data and pass its key.';
    end if;
    if enqueue.run_at is not null and enqueue.delay is not null then
        raise exception 'task % was given both run_at and delay', enqueue.task using errcode = '22023', hint = 'Give one of the two.';
    end if;
    problem := case
        when enqueue.run_at not between '0001-01-02' and '9999-12-30' then format('run_at %s', enqueue.run_at)
        when enqueue.delay not between interval '0' and interval '100 years' then format('delay %s', enqueue.delay)
        when enqueue.priority not between -32768 and 32767 then format('priority %s', enqueue.priority)
        when enqueue.max_attempts < 1 then format('max_attempts %s', enqueue.max_attempts)
        when enqueue.timeout <= 0 or enqueue.timeout = 'NaN' or enqueue.timeout = 'infinity' then format('timeout %s', enqueue.timeout)
        when enqueue.key = '' or length(enqueue.key) > 500 then format('key %L', left(enqueue.key, 50))
        when enqueue.serial_key = '' or length(enqueue.serial_key) > 500 then format('serial_key %L', left(enqueue.serial_key, 50))
        when jsonb_typeof(enqueue.headers) <> 'object' then format('headers %s', left(enqueue.headers::text, 50))
        when enqueue.on_conflict not in ('skip', 'replace', 'reschedule', 'keep_last_if_running', 'error')
            then format('on_conflict %L', left(enqueue.on_conflict, 50))
        when enqueue.keep_key <= interval '0' then format('keep_key %s', enqueue.keep_key)
        when exists (select from unnest(enqueue.tags) t (tag) where t.tag is null or length(t.tag) not between 1 and 500)
            then format('tags %s', left(enqueue.tags::text, 50)) end;
    if problem is not null then
        raise exception 'task % was given %, which is out of range', enqueue.task, problem using errcode = '22023',
            hint = 'run_at is finite and in the years 1 to 9999, delay is not negative and at most 100 years, priority is a smallint, max_attempts is at least 1, timeout is in seconds above 0, key has 1 to 500 characters, as have serial_key and each of tags, headers is an object, on_conflict is skip, replace, reschedule, keep_last_if_running or error, keep_key is above 0.';
    end if;

    perform {schema}.queue_name(coalesce(enqueue.queue, 'default'));
    select e.* into made from {schema}.enqueue_job(
        enqueue.task, enqueue.args, enqueue.queue, coalesce(enqueue.run_at, clock_timestamp() + enqueue.delay), enqueue.priority,
        enqueue.key, enqueue.serial_key, enqueue.max_attempts,
        case when enqueue.timeout is not null then jsonb_build_object('timeout', enqueue.timeout) end, enqueue.tags, enqueue.headers,
        enqueue.on_conflict, enqueue.keep_key, 0, 25, null, false) e;
    if made.refused then
        raise exception 'key % is held in queue % by job %', quote_literal(made.unique_key), made.lane, made.id using errcode = '23505',
            hint = 'Wait until that job has ended, cancel it, or choose another on_conflict.';
    end if;
    return made.id;
end
$function$;
revoke all on function {schema}.enqueue from public;
comment on function {schema}.enqueue is 'Enqueues one job in the caller''s transaction and returns its id. With a key that a live job of the queue holds, does what on_conflict says, by default nothing, and returns that job''s id.';

-- Waiting jobs end at once; running ones are marked, and end as cancelled instead of being retried.
create function {schema}.cancel(job_ids bigint[], why text default 'cancelled')
returns table (id bigint, was text) language plpgsql as $function$
declare
    held {schema}.jobs[];
    members bigint[];
    told text;
begin
    if to_regclass(format('%I.completed_jobs_%s', '{bare_schema}', to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD'))) is null then
        perform {schema}.make_partitions(0);
    end if;
    return query update {schema}.jobs j set cancel_requested = true where j.id = any (job_ids) returning j.id, j.state;
    held := array(select j from {schema}.jobs j where j.id = any (job_ids) and j.state <> 'running'
                  and (j.places is not null or j.waits_for is not null and j.ready is not null));
    members := array(select j.id from {schema}.jobs j where j.id = any (job_ids) and j.state <> 'running' and j.flow_id is not null);
    with gone as (delete from {schema}.jobs j where j.id = any (job_ids) and j.state <> 'running' returning j.*)
    insert into {schema}.completed_jobs (id, run_at, created_at, attempt, max_attempts, priority, state, queue, task,
                                         unique_key, serial_key, reason, args, headers, errors, tags, own_retention)
    select g.id, g.run_at, g.created_at, g.attempt, g.max_attempts, g.priority, 'cancelled', g.queue, g.task,
           g.unique_key, g.serial_key, why, g.args, g.headers, g.errors, g.tags,
           case when exists (select from {schema}.tasks t
                             where t.name = g.task and num_nonnulls(t.keep_completed, t.keep_completed_count) > 0) then true end
    from gone g;
    with noted as (
        update {schema}.flow_jobs n
        set state = 'cancelled', ended_at = clock_timestamp(), error = jsonb_build_object('type', 'pgqueue.errors.JobCancelled', 'message', why)
        where n.job_id = any (members) returning n.job_id)
    insert into {schema}.flow_news (job_id, was, state) select n.job_id, null, 'cancelled' from noted n;
    if found then
        perform pg_notify('{channel}', 'flows');
    end if;
    with woken as (
        delete from {schema}.waiters w
        where w.job_id = any (job_ids) and not exists (select from {schema}.jobs j where j.id = w.job_id)
        returning pg_notify(w.channel, w.job_id::text))
    select count(*) into told from woken;
    with freed as (
        insert into {schema}.freed_places (gate, loose, places)
        select f.gate, f.loose, f.places from unnest(held) h, {schema}.places_freed(h.places, null, h.waits_for, h.ready) f returning 1)
    select pg_notify('{channel}', 'limits') into told from freed limit 1;
    perform pg_notify('{channel}', format('cancel %s', j.id)) from {schema}.jobs j
    where j.id = any (job_ids) and j.state = 'running' and j.cancel_requested;
end
$function$;
comment on function {schema}.cancel is 'Cancels jobs by id and returns the state that each was in. A running job is asked to stop and will not be retried.';

-- Callbacks of batches, locked in flow_waits by the statement that calls: they have nothing to do.
create function {schema}.skip_callbacks(job_ids bigint[]) returns bigint[] language plpgsql as $function$
begin
    perform {schema}.cancel(job_ids, 'its batch came to another end');
    -- To those that wait for it the same as cancelled.
    update {schema}.flow_jobs n set state = 'skipped' where n.job_id = any (job_ids) and n.state = 'cancelled';
    return job_ids;
end
$function$;
comment on function {schema}.skip_callbacks is 'Ends callbacks of batches that are not to run any more as cancelled, in their flows as skipped.';

-- blocked -> available | scheduled, for jobs that wait for no child any more and that nobody else has locked. Who calls has
-- locked their rows in flow_waits.
create function {schema}.release_waiting(job_ids bigint[]) returns bigint[] language plpgsql as $function$
declare
    free bigint[];
    told bigint;
begin
    -- The transaction must have its id before it takes positions: the claimers' marks rely on it.
    perform pg_current_xact_id();
    with locked as materialized (
        select j.id, case when j.run_at <= clock_timestamp() then true end as due from {schema}.jobs j
        where j.id = any (job_ids) and j.state = 'blocked' and j.waits_for = 'children'
        order by j.id for update skip locked),
    numbered as materialized (
        select array_agg(n.id) as ids, array_agg(n.place) as places
        from (select l.id, case when l.due then nextval('{schema}.jobs_position') end as place
              from (select * from locked order by id) l) n),
    released as (
        update {schema}.jobs j
        set (position, state) = (
                select o.places[o.n], case when o.places[o.n] is null then 'scheduled' else 'available' end
                -- The ids are sorted, so that each is found by a binary search.
                from (select m.places, width_bucket(j.id, m.ids) as n from numbered m offset 0) o),
            waits_for = null
        where j.id = any (array(select id from locked))
        returning j.queue, j.priority, j.position),
    woken as (
        select pg_notify('{channel}', case when min(r.position) is null then format('scheduled %s', r.queue)
                                           else format('available %s %s %s', r.queue, r.priority, min(r.position)) end)
        from released r group by r.queue, r.priority, r.position is null)
    select (select m.ids from numbered m), (select count(*) from woken) into free, told;
    return coalesce(free, '{{}}');
end
$function$;
comment on function {schema}.release_waiting is 'Lets jobs go that wait for no child any more; returns those that it let go.';

-- Members of flows that have ended, or live again: those that wait for them count it, and go if they wait for no other.
-- Called by each worker's service.
create function {schema}.settle_flows(most integer, out told integer, out due boolean) language plpgsql as $function$
declare
    places tid[];
    ids bigint[];
    befores text[];
    states text[];
    tolds bigint[];
    parted bigint[] := '{{}}';
    change record;
    edges integer;
    going bigint[];
    gone bigint[];
begin
    told := 0;
    -- What is lost in a crash of the server is found again: it is still to be counted.
    perform set_config('synchronous_commit', 'off', true);
    -- Who adds a parent to one holds its news. A statement of its own: the next has a snapshot that is younger than these
    -- locks, and sees the edges of all who held them before.
    select array_agg(n.place), array_agg(n.job_id), array_agg(n.was), array_agg(n.state), array_agg(n.told)
    into places, ids, befores, states, tolds
    from (select n.ctid as place, n.* from {schema}.flow_news n limit most for update skip locked) n;
    -- All news of one job are counted together: of an end, a redrive and another end two would let its parent go.
    if (select count(*) from {schema}.flow_news) > cardinality(ids) then
        parted := array(
            select d.job_id from (select n.job_id, count(*) from {schema}.flow_news n group by n.job_id
                                  except select i, count(*) from unnest(ids) i group by i) d
            intersect select unnest(ids));
    end if;
    for change in
        with jobs as materialized (
            -- Mostly there is one of each.
            select n.job_id, min(n.told) as told, min(n.was) as was, min(n.state) as state, row_number() over (order by n.job_id) as number,
                   array_agg(n.place) as places,
                   case when count(*) > 1 then array_agg(n.was) end as befores,
                   case when count(*) > 1 then array_agg(n.state) end as states, case when count(*) > 1 then array_agg(n.told) end as tolds
            from unnest(places, ids, befores, states, tolds) n (place, job_id, was, state, told)
            where n.job_id <> all (parted) group by n.job_id),
        edges as materialized (
            select j.number, j.job_id, e.*, j.was, j.state, j.befores, j.states, j.tolds
            -- What is limited in here can only be looked up for one after the other, in their order, until there are enough.
            from (select * from jobs order by number) j, lateral (
                select f.parent_id, f.round, f.on_failure from {schema}.flow_edges f
                where f.child_id = j.job_id and f.parent_id > j.told order by f.parent_id limit most) e
            limit most),
        -- Of the last of them more may wait: its news stay, and say to whom they have been told.
        cut as materialized (
            select e.number, max(e.parent_id) as parent from edges e
            where (select count(*) from edges) >= most group by e.number order by e.number desc limit 1),
        change as materialized (
            select n.parent_id, n.round,
                   sum((n.is = 'waits')::int - (n.was = 'waits')::int)::int as pending,
                   sum((n.is = 'fails')::int - (n.was = 'fails')::int)::int as failing,
                   sum((n.is = 'hurries')::int - (n.was = 'hurries')::int)::int as urgent
            from (select e.parent_id, e.round, {schema}.edge_state(e.on_failure, e.state) as is, {schema}.edge_state(e.on_failure, e.was) as was
                  from edges e where e.tolds is null
                  union all
                  select e.parent_id, e.round, {schema}.edge_state(e.on_failure, n.state), {schema}.edge_state(e.on_failure, n.was)
                  from edges e cross join lateral unnest(e.befores, e.states, e.tolds) n (was, state, told)
                  where e.tolds is not null and n.told < e.parent_id) n
            where n.is <> n.was group by n.parent_id, n.round),
        alike as materialized (
            select c.pending, c.failing, c.urgent, c.round, array_agg(c.parent_id order by c.parent_id) as parents
            from change c group by c.pending, c.failing, c.urgent, c.round)
        select a.*, case when (select count(*) from alike) > 1 then array(select c.parent_id from change c) end as everyone,
               l.edges, l.done, l.cut, c.parent
        from (select (select count(*) from edges) as edges,
                     array(select unnest(j.places) from jobs j where j.number < coalesce((select number from cut), most + 1)) as done,
                     (select j.places from jobs j where j.number = (select number from cut)) as cut
              where ids is not null) l
        left join cut c on true left join alike a on true
    loop
        if edges is null then
            edges := change.edges;
            told := edges + cardinality(change.done);
            delete from {schema}.flow_news where ctid = any (change.done);
            update {schema}.flow_news n set told = greatest(n.told, change.parent) where ctid = any (change.cut);
            -- All in the order of their ids, against deadlocks; those of one kind are updated in it.
            perform from {schema}.flow_waits w where w.job_id = any (change.everyone) order by w.job_id for update;
        end if;
        continue when change.parents is null;
        with counted as (
            update {schema}.flow_waits w
            set pending = w.pending + change.pending, failing = w.failing + change.failing, urgent = w.urgent + change.urgent
            where w.job_id = any (change.parents) and w.round = change.round
            returning w.job_id, {schema}.flow_turn(w) as turn),
        turns as (
            insert into {schema}.flow_turns (job_id, turn) select c.job_id, c.turn from counted c where c.turn <> 'release')
        select array_agg(c.job_id) into going from counted c where c.turn = 'release';
        continue when going is null;
        gone := {schema}.release_waiting(going);
        if cardinality(going) > cardinality(gone) then
            -- Somebody holds them, or they have run already.
            insert into {schema}.flow_turns (job_id, turn) select unnest(going), 'release' except select unnest(gone), 'release';
        end if;
    end loop;
    due := exists (select from {schema}.flow_turns);
end
$function$;
comment on function {schema}.settle_flows is 'Has those that wait count members of flows that have ended, or live again, and lets them go. Returns how much there was to tell, and whether something else is to become of some.';

-- What every verb and listing of failed jobs chooses by.
create function {schema}.is_failure(
    job {schema}.failed_jobs, job_ids bigint[], queue text, task text, error text, fingerprint text
) returns boolean language sql immutable as $function$
    select (job_ids is null or job.id = any (job_ids))
       and (queue is null or job.queue = queue) and (task is null or job.task = task)
       and (error is null or error in (job.error_type, job.fingerprint)
            or right(job.error_type, length(error) + 1) = '.' || error)
       and (fingerprint is null or job.fingerprint = fingerprint);
$function$;
comment on function {schema}.is_failure is
    'Whether a failed job is one of these ids, this queue, task, error (a class, with or without its module, or a fingerprint) and fingerprint.';

create function {schema}.comes_with_a_child(job_id bigint, chosen bigint[]) returns boolean language sql stable as $function$
    select exists (
        select from {schema}.flow_waits w
        join {schema}.flow_edges e on e.parent_id = w.job_id and e.round = w.round
        join {schema}.flow_jobs n on n.job_id = e.child_id
        where w.job_id = comes_with_a_child.job_id and {schema}.edge_state(e.on_failure, n.state) = 'fails'
          and case when chosen is null then exists (select from {schema}.failed_jobs f where f.id = n.job_id) else n.job_id = any (chosen) end);
$function$;
comment on function {schema}.comes_with_a_child is 'Whether a child for which this job failed is in failed_jobs too, or, where some are chosen, is one of them: its redrive brings the job back.';

-- failed_jobs -> jobs, attempts anew, errors kept: at once, or at a rate. A job whose key is held by a live job stays where it is.
create function {schema}.redrive(
    job_ids bigint[] default null, queue text default null, task text default null, error text default null, max_jobs bigint default null,
    everything boolean default false, rate double precision default null, to_queue text default null, fingerprint text default null
) returns setof bigint language plpgsql as $function$
declare
    locked bigint[];
    inserted bigint[];
    began timestamptz := clock_timestamp();
begin
    if everything is distinct from (num_nonnulls(job_ids, redrive.queue, redrive.task, error, redrive.fingerprint) = 0) then
        raise exception 'it is not said which failed jobs' using errcode = '22023',
            hint = 'Give job_ids, queue, task, error or fingerprint, or everything => true.';
    end if;
    -- A job a year, a million a second.
    if rate < 1 / 31622400.0 or rate > 1000000 then
        raise exception 'rate % cannot be', rate using errcode = '22023', hint = 'Give jobs a second, from one a year to a million.';
    end if;
    if to_queue is not null then
        perform {schema}.queue_name(to_queue);
    end if;
    perform pg_current_xact_id();
    locked := array(
        select f.id from {schema}.failed_jobs f
        where {schema}.is_failure(f, job_ids, redrive.queue, redrive.task, error, redrive.fingerprint)
          -- What failed for a child comes back with that; chosen by its id, or where that cannot come back, it runs without.
          and (f.reason <> 'child_failed' or not {schema}.comes_with_a_child(f.id, job_ids))
        order by f.id limit max_jobs for update skip locked);
    if (cardinality(locked) - 1) / rate > 3155760000 then
        raise exception 'at rate % the last of % jobs would run in more than 100 years', rate, cardinality(locked)
            using errcode = '22023', hint = 'Give a higher rate, or max_jobs.';
    end if;
    with placed as (
        select f.*, coalesce(to_queue, f.queue) as lane,
               began + coalesce(make_interval(secs => (row_number() over (order by f.id) - 1) / rate), interval '0') as due
        from {schema}.failed_jobs f where f.id = any (locked)),
    numbered as materialized (
        select o.*, case when o.due <= clock_timestamp() then nextval('{schema}.jobs_position') end as position
        from (select p.* from placed p order by p.id) o),
    made as (
        insert into {schema}.jobs (id, position, run_at, created_at, max_attempts, priority, state, queue, task, unique_key,
                                   serial_key, args, options, headers, errors, tags, places, flow_id)
        select n.id, n.position, n.due, n.created_at, n.max_attempts, n.priority,
               case when n.position is null then 'scheduled' else 'available' end, n.lane, n.task,
               n.unique_key, n.serial_key, n.args, n.options, n.headers, n.errors, n.tags,
               -- A key that it halts stays its own, so it is the next of that key to run.
               case when n.lane = n.queue then n.places end,
               (select m.flow_id from {schema}.flow_jobs m where m.job_id = n.id)
        from numbered n order by n.unique_key nulls first, n.lane, n.id
        on conflict do nothing returning id)
    select array_agg(m.id) into inserted from made m;
    with noted as (
        update {schema}.flow_jobs m set state = null, ended_at = null, error = null where m.job_id = any (inserted) returning m.job_id)
    insert into {schema}.flow_news (job_id, was, state) select n.job_id, 'failed', null from noted n;
    if found then
        perform pg_notify('{channel}', 'flows');
    end if;
    -- One that ran and failed itself waits for those of its children that live again, unless another lets it run, or has
    -- let it run by itself. What failed for a child is to run.
    update {schema}.jobs j set state = 'blocked', position = null, waits_for = 'children'
    where j.id = any (inserted) and exists (
        select from {schema}.failed_jobs f where f.id = j.id and f.reason <> 'child_failed') and (
        select bool_or(m.state is null) and not bool_or({schema}.edge_state(e.on_failure, m.state) in ('fails', 'hurries'))
        from {schema}.flow_waits w
        join {schema}.flow_edges e on e.parent_id = w.job_id and e.round = w.round
        join {schema}.flow_jobs m on m.job_id = e.child_id
        where w.job_id = j.id);
    with gone as (delete from {schema}.failed_jobs f where f.id = any (inserted) returning f.queue, f.places)
    insert into {schema}.freed_places (gate, loose)
    select place, false from gone g, unnest(g.places) place where coalesce(to_queue, g.queue) <> g.queue;
    if found then
        perform pg_notify('{channel}', 'limits');
    end if;
    perform pg_notify('{channel}', case when min(j.position) is null then format('scheduled %s', j.queue)
                                        else format('available %s %s %s', j.queue, j.priority, min(j.position)) end)
    from {schema}.jobs j where j.id = any (inserted) and j.state <> 'blocked' group by j.queue, j.priority, j.position is null;
    return query select unnest(inserted);
end
$function$;
comment on function {schema}.redrive is 'Sends failed jobs back to their queues or to another, oldest first, at a rate (jobs a second) if given, and returns their ids. Filters: ids, queue, task, error (type or fingerprint), fingerprint.';

create function {schema}.purge_failed(
    job_ids bigint[] default null, queue text default null, task text default null, error text default null, max_jobs bigint default null,
    everything boolean default false, fingerprint text default null
) returns bigint language plpgsql as $function$
declare
    locked bigint[];
begin
    if everything is distinct from (num_nonnulls(job_ids, purge_failed.queue, purge_failed.task, error, purge_failed.fingerprint) = 0) then
        raise exception 'it is not said which failed jobs' using errcode = '22023',
            hint = 'Give job_ids, queue, task, error or fingerprint, or everything => true.';
    end if;
    locked := array(
        select f.id from {schema}.failed_jobs f
        where {schema}.is_failure(f, job_ids, purge_failed.queue, purge_failed.task, error, purge_failed.fingerprint)
        order by f.id limit max_jobs for update skip locked);
    with gone as (delete from {schema}.failed_jobs f where f.id = any (locked) returning f.places)
    insert into {schema}.freed_places (gate, loose) select place, false from gone g, unnest(g.places) place;
    if found then
        perform pg_notify('{channel}', 'limits');
    end if;
    delete from {schema}.job_logs l where l.job_id = any (locked);
    delete from {schema}.job_progress p where p.job_id = any (locked);
    return cardinality(locked);
end
$function$;
comment on function {schema}.purge_failed is 'Deletes failed jobs for good, with their log lines, and returns how many. Filters as in redrive.';

-- The serial key of an on_failed task is never worth a failed job: where it cannot be filled there is none.
create function {schema}.hook_key(task text, template text, args jsonb) returns text language plpgsql as $function$
begin
    return left(nullif({schema}.fill_key(template, args), ''), 500);
exception when invalid_parameter_value then
    raise warning 'the on_failed task % of job % has no serial key: %', hook_key.task, args ->> 'job_id', sqlerrm;
    return null;
end
$function$;
comment on function {schema}.hook_key is 'The serial key of an on_failed task, or null with a warning where it cannot be filled.';

-- Called by the statement that moved the jobs: whatever sends jobs to failed_jobs calls it with their ids.
create function {schema}.enqueue_on_failed(job_ids bigint[]) returns bigint strict language plpgsql as $function$
declare
    told bigint;
    lanes bigint;
begin
    perform pg_current_xact_id();
    with failed as (
        select f.id, coalesce(t.on_failed, q.on_failed, t.app_defaults ->> 'on_failed') as hook,
               jsonb_build_object(
                   'job_id', f.id, 'task', f.task, 'queue', f.queue, 'args', f.args, 'reason', f.reason, 'fingerprint', f.fingerprint,
                   'error', jsonb_build_object('type', f.error_type, 'message', f.error_message,
                                               'traceback', coalesce(f.errors -> -1 ->> 'traceback', ''))) as args
        from {schema}.failed_jobs f
        left join {schema}.tasks t on t.name = f.task
        left join {schema}.queues q on q.name = f.queue
        -- What tells of a failure, and fails itself, would tell of itself for ever.
        where f.id = any (job_ids) and not coalesce(f.headers ? 'failed_job', false)),
    resolved as (
        select f.id, f.hook, coalesce(h.queue, 'default') as lane, coalesce(h.priority, q.priority, 0) as rank,
               coalesce(h.max_attempts, q.max_attempts, 25) as attempts,
               -- One level down: arguments that are as deep as they may be would be too deep there.
               case when {schema}.too_deep(f.args) then f.args || '{{"args": null}}' else f.args end as args,
               case when h.serial_key is not null then {schema}.hook_key(f.hook, h.serial_key, f.args - 'args' - 'error') end as serial_key
        from failed f
        left join {schema}.tasks h on h.name = f.hook
        left join {schema}.queues q on q.name = coalesce(h.queue, 'default')
        where f.hook <> ''),
    numbered as materialized (
        select r.*, nextval('{schema}.jobs_position') as position from (select * from resolved order by id) r),
    made as (
        -- Without a unique key: nothing may keep a job from being moved.
        insert into {schema}.jobs (queue, task, args, state, priority, position, max_attempts, serial_key, headers)
        select lane, hook, args, 'available', rank, position, attempts, serial_key, jsonb_build_object('failed_job', id)
        from numbered order by position
        returning id),
    woken as (
        select pg_notify('{channel}', format('available %s %s %s', lane, rank, min(position))) from numbered n
        where exists (select from {schema}.idle_workers w where w.queue = n.lane) group by lane, rank)
    select (select count(*) from made), (select count(*) from woken) into told, lanes;
    return told;
exception
    -- What passes is for the caller to try again with the move.
    when transaction_rollback or object_not_in_prerequisite_state or insufficient_resources or operator_intervention or system_error then
        raise;
    when others then
        if cardinality(job_ids) = 1 then
            raise warning 'the on_failed task of job % could not be enqueued: %', job_ids[1], sqlerrm;
            return 0;
        end if;
        return (select sum({schema}.enqueue_on_failed(array[id])) from unnest(job_ids) id);
end
$function$;
comment on function {schema}.enqueue_on_failed is 'Enqueues the on_failed tasks of these failed jobs, in the transaction that has moved them to failed_jobs; returns how many. Where that is impossible it warns, and the jobs stay moved.';

create function {schema}.key_template(key text) returns text language plpgsql immutable as $function$
begin
    -- Doubled braces stand for braces.
    if length(key) > 200 or regexp_replace(key, '[{{][{{]|[}}][}}]', '', 'g') !~ '^[^{{}}]*([{{][A-Za-z_][A-Za-z0-9_]*[}}][^{{}}]*)+$' then
        raise exception 'key % is no template', quote_literal(left(key, 60)) using errcode = '22023',
            hint = 'Name arguments in braces, as in {{customer_id}}, and nothing else, in at most 200 characters.';
    end if;
    return key;
end
$function$;
comment on function {schema}.key_template is 'The key, if it can be that of a limit.';

-- What pause and resume are about, checked: a queue, a task, one value of a limit's key, or a serial key of a queue.
create function {schema}.gate_name(queue text, task text, key text, value text, serial_key text) returns text language plpgsql as $function$
begin
    if num_nonnulls(queue, task) <> 1 or (key is null) <> (value is null) or serial_key is not null and num_nonnulls(task, key) > 0 then
        raise exception 'it is not said what: queue %, task %, key %, value %, serial_key %', quote_nullable(queue), quote_nullable(task),
            quote_nullable(key), quote_nullable(value), quote_nullable(serial_key) using errcode = '22023',
            hint = 'Give a queue or a task; with it, if you mean one value only, key and value; or a queue and a serial_key.';
    end if;
    perform {schema}.queue_name(coalesce(queue, task)), {schema}.key_template(key);
    if length(coalesce(value, serial_key)) not between 1 and 500 then
        raise exception 'value % is not valid', quote_literal(left(coalesce(value, serial_key), 50)) using errcode = '22023',
            hint = 'Use 1 to 500 characters.';
    end if;
    return case when serial_key is not null then format('serial:%s:%s', queue, serial_key)
                when key is not null then format('%s:%s:%s:%s', case when queue is null then 'task' else 'queue' end, coalesce(queue, task), key, value) end;
end
$function$;
comment on function {schema}.gate_name is 'The gate of one value of a limit''s key, or of a serial key; null for a whole queue or task.';

create function {schema}.pause(
    queue text default null, task text default null, key text default null, value text default null, serial_key text default null
) returns void language plpgsql as $function$
declare
    gate text := {schema}.gate_name(queue, task, key, value, serial_key);
    of_scope text := case when queue is null then 'task' else 'queue' end;
begin
    if gate is null and queue is not null then
        insert into {schema}.queues (name, paused) values (queue, true)
        on conflict (name) do update set paused = true, updated_at = clock_timestamp();
        return;
    end if;
    if serial_key is null then
        -- A limit that limits nothing, so that workers look.
        insert into {schema}.limits as l (scope, name, key, paused) values (of_scope, coalesce(queue, task), coalesce(pause.key, ''), gate is null)
        on conflict on constraint limits_pkey do update set paused = l.paused or excluded.paused, updated_at = clock_timestamp();
    end if;
    if gate is not null then
        insert into {schema}.gates (name, scope, of, key, closed_until)
        values (gate, case when serial_key is null then of_scope else 'serial' end, coalesce(queue, task), coalesce(pause.key, ''), 'infinity')
        on conflict (name) do update set closed_until = 'infinity';
    end if;
    perform pg_notify('{channel}', 'limits');
end
$function$;
comment on function {schema}.pause is 'Lets nothing begin of a queue, of a task, of one value of a limit''s key, or of a serial key of a queue; what runs goes on.';

create function {schema}.resume(
    queue text default null, task text default null, key text default null, value text default null, serial_key text default null
) returns boolean language plpgsql as $function$
declare
    gate text := {schema}.gate_name(queue, task, key, value, serial_key);
    of_scope text := case when queue is null then 'task' else 'queue' end;
    was_paused boolean;
begin
    if gate is null and queue is not null then
        update {schema}.queues set paused = false, updated_at = clock_timestamp() where name = queue and paused;
        was_paused := found;
        perform pg_notify('{channel}', 'resumed ' || queue);
        return was_paused;
    end if;
    if gate is null then
        update {schema}.limits l set paused = false, updated_at = clock_timestamp()
        where (l.scope, l.name, l.key) = (of_scope, task, '') and l.paused;
        was_paused := found;
    else
        -- One that was closed for a time is not paused once that is over.
        was_paused := exists (select from {schema}.gates g where g.name = gate and g.closed_until > clock_timestamp());
        update {schema}.gates g set closed_until = null where g.name = gate and g.closed_until is not null;
        -- A failed job that halts the key lets it go.
        with held as (update {schema}.failed_jobs f set places = null where f.places is not null and f.places @> array[gate] returning 1)
        insert into {schema}.freed_places (gate, loose) select gate, false from held;
        was_paused := was_paused or found;
    end if;
    -- What was made for the pause alone.
    delete from {schema}.limits l
    where (l.scope, l.name, l.key) = (of_scope, coalesce(queue, task), coalesce(resume.key, ''))
      and num_nonnulls(l.concurrency, l.rate, l.declared) = 0 and not l.fair and not l.paused
      and not exists (select from {schema}.gates g where g.closed_until = 'infinity' and (g.scope, g.of, g.key) = (l.scope, l.name, l.key));
    perform pg_notify('{channel}', 'limits');
    return was_paused;
end
$function$;
comment on function {schema}.resume is 'Lets go on what was paused, and a serial key that a failed job halts: as pause. False where nothing was paused.';

create function {schema}.clock() returns timestamptz language sql volatile as $function$
    select clock_timestamp()
$function$;
comment on function {schema}.clock is 'The time by which schedules are fired.';

create function {schema}.add_schedule(
    name text, task text, args jsonb default '{{}}', cron text default null, every interval default null, tz text default 'UTC',
    queue text default null, catch_up text default 'latest', grace interval default null, overlap text default 'allow',
    jitter interval default null, start_at timestamptz default null, end_at timestamptz default null, max_runs integer default null
) returns void language plpgsql as $function$
#variable_conflict use_variable
declare
    problem text;
begin
    problem := case
        when name is null or name !~ '^[A-Za-z0-9._][A-Za-z0-9._-]{{0,99}}$' then format('name %L', left(name, 50))
        when task is null or task !~ '^[A-Za-z0-9._][A-Za-z0-9._-]{{0,99}}$' then format('task %L', left(task, 50))
        when jsonb_typeof(coalesce(args, 'null')) <> 'object' then format('args %s', coalesce(left(args::text, 50), 'null'))
        when (cron is null) = (every is null) then 'both or neither of cron and every'
        when cron !~ '^\s*(@[A-Za-z]+|\S+(\s+\S+){{4,5}})\s*$' then format('cron %L', left(cron, 50))
        when every is not null and every not between interval '1 second' and interval '3653 days' then format('every %s', every)
        when tz is null or not exists (select from pg_timezone_names z where z.name = tz) then format('tz %L', left(tz, 50))
        when coalesce(catch_up, '') not in ('skip', 'latest', 'all') then format('catch_up %L', left(catch_up, 50))
        when coalesce(overlap, '') not in ('allow', 'skip', 'queue_one', 'cancel_running') then format('overlap %L', left(overlap, 50))
        when catch_up = 'all' and overlap <> 'allow' then format('catch_up all with overlap %s', overlap)
        when grace not between interval '0' and interval '3653 days' then format('grace %s', grace)
        when jitter not between interval '0' and interval '3653 days' then format('jitter %s', jitter)
        when end_at < {schema}.clock() then format('end_at %s, which is over', end_at)
        when end_at < start_at then format('end_at %s before start_at %s', end_at, start_at)
        when max_runs < 1 then format('max_runs %s', max_runs) end;
    if problem is not null then
        raise exception 'schedule % was given %', quote_nullable(left(name, 100)), problem using errcode = '22023',
            hint = 'Give a name and a task of at most 100 letters, digits and . _ - ; args is an object; one of cron (five or six fields, or such as @daily) and every (1 second to ten years); tz is an IANA name; catch_up is skip, latest or all (which allows overlap), overlap is allow, skip, queue_one or cancel_running; grace and jitter are not negative; end_at is to come; max_runs is at least 1.';
    end if;
    perform {schema}.queue_name(coalesce(queue, 'default'));
    insert into {schema}.schedules as s (name, source, task, args, cron, every, tz, queue, catch_up, grace, overlap, jitter, start_at, end_at, max_runs)
    values (name, 'live', task, args, cron, every, tz, queue, catch_up, grace, overlap, jitter, start_at, end_at, max_runs)
    on conflict on constraint schedules_pkey do update set
        source = 'live', task = excluded.task, args = excluded.args, queue = excluded.queue, catch_up = excluded.catch_up, grace = excluded.grace,
        overlap = excluded.overlap, jitter = excluded.jitter, cron = excluded.cron, every = excluded.every, tz = excluded.tz,
        start_at = excluded.start_at, end_at = excluded.end_at, max_runs = excluded.max_runs, error = null,
        enabled = s.enabled or s.source = 'removed' or s.error is not null,
        next_run_at = case when (s.cron, s.every, s.tz, s.start_at, s.end_at, s.max_runs)
            is not distinct from (excluded.cron, excluded.every, excluded.tz, excluded.start_at, excluded.end_at, excluded.max_runs)
            and s.enabled then s.next_run_at end,
        updated_at = {schema}.clock()
    where s.source <> 'code';
    if not found then
        raise exception 'schedule % is declared in the code', quote_literal(name) using errcode = '22023',
            hint = 'Change it there, or choose another name.';
    end if;
end
$function$;
comment on function {schema}.add_schedule is 'Adds a schedule, or changes one that was added before; a scheduler works out its next time, and disables it with an error where its cron pattern cannot be used.';

create function {schema}.set_ageing(queue text, every interval, floor integer default null) returns void language plpgsql as $function$
begin
    perform {schema}.queue_name(queue);
    if every < interval '1 second' or every > interval '100 years' or floor not between -32768 and 32767 or every is null and floor is not null then
        raise exception 'the ageing of queue % cannot be: every %, floor %', queue, coalesce(every::text, 'null'), coalesce(floor::text, 'null')
            using errcode = '22023', hint = 'Give a time of at least a second, and a priority beyond which nothing ages; or null, to end it.';
    end if;
    insert into {schema}.queues as q (name, ageing, ageing_floor) values (set_ageing.queue, set_ageing.every, set_ageing.floor)
    on conflict (name) do update
    set ageing = excluded.ageing, ageing_floor = excluded.ageing_floor, updated_at = clock_timestamp();
end
$function$;
comment on function {schema}.set_ageing is 'For each such time that an available job of the queue has waited, its priority is one sooner, down to floor, or to the soonest at which jobs of the queue wait or run. Null ends it.';

create function {schema}.set_limit(
    scope text, name text, concurrency integer default null, rate double precision default null, burst integer default 1, key text default '',
    fair boolean default false
) returns void language plpgsql as $function$
begin
    if scope is null or scope not in ('queue', 'task') then
        raise exception 'scope % is not valid', quote_nullable(scope) using errcode = '22023', hint = 'It is queue or task.';
    end if;
    perform {schema}.queue_name(name);
    perform {schema}.key_template(nullif(key, ''));
    -- A job a year, a million a second.
    if fair is null or fair and (scope = 'task' or key = '') then
        raise exception 'the limit of % % cannot be fair: key %', scope, name, quote_nullable(key) using errcode = '22023',
            hint = 'The slots of a queue are shared among the values of a key: give scope queue and a key.';
    end if;
    if (num_nonnulls(concurrency, rate) = 0 and not fair) or concurrency < 1 or burst is null or burst < 1 or rate < 1 / 31622400.0 or rate > 1000000
       or key is null then
        raise exception 'the limit of % % cannot be: concurrency %, rate %, burst %, key %', scope, name, coalesce(concurrency::text, 'null'),
            coalesce(rate::text, 'null'), coalesce(burst::text, 'null'), quote_nullable(key) using errcode = '22023',
            hint = 'Give concurrency, rate (jobs a second, from one a year to a million) or both; they and burst are above 0.';
    end if;
    insert into {schema}.limits as l (scope, name, key, concurrency, rate, burst, fair)
    values (set_limit.scope, set_limit.name, set_limit.key, set_limit.concurrency, set_limit.rate, set_limit.burst, set_limit.fair)
    on conflict on constraint limits_pkey do update
    set concurrency = excluded.concurrency, rate = excluded.rate, burst = excluded.burst, fair = excluded.fair, updated_at = clock_timestamp();
    perform pg_notify('{channel}', 'limits');
end
$function$;
comment on function {schema}.set_limit is 'Limits how many jobs of a queue or task run at once (concurrency) and begin in a second (rate), or changes that. With key each value has a limit of its own; fair: those with jobs waiting share the slots of the queue evenly.';

create function {schema}.remove_limit(scope text, name text, key text default '') returns boolean language plpgsql as $function$
declare
    removed integer;
begin
    if key = 'breaker' then
        raise exception 'key % is that of a circuit breaker', quote_literal(key) using errcode = '22023',
            hint = 'Use close_breaker or remove_breaker.';
    end if;
    delete from {schema}.limits l where (l.scope, l.name, l.key) = (remove_limit.scope, remove_limit.name, remove_limit.key);
    get diagnostics removed = row_count;
    perform pg_notify('{channel}', 'limits');
    return removed > 0;
end
$function$;
comment on function {schema}.remove_limit is 'Lifts a limit, and lets its jobs go; false where there was none.';

create function {schema}.set_breaker(
    scope text, name text, failures integer default null, within double precision default 60, open_for double precision default 30,
    cap double precision default null, ratio double precision default null, minimum integer default 20, errors text[] default null
) returns void language plpgsql as $function$
declare
    longest double precision := coalesce(cap, greatest(open_for, 600));
begin
    if scope is null or scope not in ('queue', 'task') then
        raise exception 'scope % is not valid', quote_nullable(scope) using errcode = '22023', hint = 'It is queue or task.';
    end if;
    perform {schema}.queue_name(name);
    if num_nonnulls(failures, ratio) = 0 or failures < 1 or ratio <= 0 or ratio > 1 or coalesce(minimum, 0) < 1 or cardinality(errors) = 0
       or not coalesce(within > 0 and open_for > 0 and longest >= open_for and greatest(within, longest) <= 3162240000, false) then
        raise exception 'the breaker of % % cannot be: failures %, within %, open_for %, cap %, ratio %, minimum %', scope, name,
            coalesce(failures::text, 'null'), coalesce(within::text, 'null'), coalesce(open_for::text, 'null'), coalesce(cap::text, 'null'),
            coalesce(ratio::text, 'null'), coalesce(minimum::text, 'null') using errcode = '22023',
            hint = 'Give failures, ratio (above 0, up to 1) or both; failures and minimum are at least 1, times are seconds above 0, cap is not below open_for.';
    end if;
    insert into {schema}.breakers as b (scope, name, failures, within, open_for, cap, ratio, minimum, errors)
    values (set_breaker.scope, set_breaker.name, set_breaker.failures, set_breaker.within, set_breaker.open_for, longest, set_breaker.ratio,
            set_breaker.minimum, set_breaker.errors)
    on conflict on constraint breakers_pkey do update
    set failures = excluded.failures, within = excluded.within, open_for = excluded.open_for, cap = excluded.cap, ratio = excluded.ratio,
        minimum = excluded.minimum, errors = excluded.errors, updated_at = clock_timestamp();
    perform pg_notify('{channel}', 'limits');
end
$function$;
comment on function {schema}.set_breaker is 'Makes a circuit breaker of a queue or task, or changes its thresholds: it opens when so many attempts failed within so many seconds, or such a share of at least minimum. errors: classes that count. Its state stays.';

-- Closed -> open, by hand or since the failures are too many; the gate says so to the claims. `trials` have failed one after the other.
create function {schema}.open_breaker(
    scope text, name text, seconds double precision default 'infinity', why text default 'by hand', trials integer default 0
) returns boolean language plpgsql as $function$
declare
    until timestamptz;
begin
    if not coalesce(seconds > 0 and (seconds <= 3162240000 or seconds = 'infinity'), false) then
        raise exception 'seconds % cannot be', coalesce(seconds::text, 'null') using errcode = '22023',
            hint = 'Give a time above 0, or leave it out: it stays open until it is closed.';
    end if;
    until := case when seconds = 'infinity' then 'infinity' else clock_timestamp() + make_interval(secs => seconds) end;
    update {schema}.breakers b set open_until = until, opened_at = clock_timestamp(), trials = open_breaker.trials, reason = why
    where (b.scope, b.name) = (open_breaker.scope, open_breaker.name);
    if not found then
        return false;
    end if;
    insert into {schema}.limits as l (scope, name, key, concurrency) values (open_breaker.scope, open_breaker.name, 'breaker', 1)
    on conflict on constraint limits_pkey do nothing;
    insert into {schema}.gates (name, scope, of, key, closed_until)
    values (format('%s:%s:breaker:breaker', open_breaker.scope, open_breaker.name), open_breaker.scope, open_breaker.name, 'breaker', until)
    on conflict on constraint gates_pkey do update set closed_until = excluded.closed_until;
    perform pg_notify('{channel}', 'limits');
    return true;
end
$function$;
comment on function {schema}.open_breaker is 'Lets nothing of a queue or task begin that has a circuit breaker, for so many seconds, after which one job is tried, or until it is closed. False where there is none.';

create function {schema}.close_breaker(scope text, name text) returns boolean language plpgsql as $function$
begin
    update {schema}.breakers b set open_until = null, trials = 0, counted_from = clock_timestamp()
    where (b.scope, b.name) = (close_breaker.scope, close_breaker.name);
    if not found then
        return false;
    end if;
    delete from {schema}.limits l where (l.scope, l.name, l.key) = (close_breaker.scope, close_breaker.name, 'breaker');
    -- One that has let a trial go says nothing any more, and somebody may hold it.
    update {schema}.gates g set closed_until = null
    where g.name = format('%s:%s:breaker:breaker', close_breaker.scope, close_breaker.name) and g.closed_until > clock_timestamp();
    perform pg_notify('{channel}', 'limits');
    return true;
end
$function$;
comment on function {schema}.close_breaker is 'Closes a circuit breaker, lets its jobs go on, and counts failures from now on. False where there is none.';

create function {schema}.reset_breaker(scope text, name text) returns boolean language plpgsql as $function$
begin
    update {schema}.breakers b set open_until = least(b.open_until, clock_timestamp()), trials = 0, counted_from = clock_timestamp()
    where (b.scope, b.name) = (reset_breaker.scope, reset_breaker.name) and b.open_until is not null;
    if found then
        update {schema}.gates g set closed_until = null
        where g.name = format('%s:%s:breaker:breaker', reset_breaker.scope, reset_breaker.name) and g.closed_until > clock_timestamp();
        perform pg_notify('{channel}', 'limits');
        return true;
    end if;
    update {schema}.breakers b set counted_from = clock_timestamp() where (b.scope, b.name) = (reset_breaker.scope, reset_breaker.name);
    return found;
end
$function$;
comment on function {schema}.reset_breaker is 'Forgets the failures that a circuit breaker has counted; one that is open tries a job now. False where there is none.';

create function {schema}.remove_breaker(scope text, name text) returns boolean language plpgsql as $function$
begin
    if not {schema}.close_breaker(scope, name) then
        return false;
    end if;
    delete from {schema}.breakers b where (b.scope, b.name) = (remove_breaker.scope, remove_breaker.name);
    delete from {schema}.breaker_counts c where (c.scope, c.name) = (remove_breaker.scope, remove_breaker.name);
    return true;
end
$function$;
comment on function {schema}.remove_breaker is 'Takes a circuit breaker away, and lets its jobs go on; false where there was none.';

-- Partitions are made ahead, so that a finish finds its own. Attaching an empty table needs no scan and blocks no insert.
create function {schema}.make_partitions(days integer default 7) returns integer language plpgsql as $function$
declare
    first_day date := (clock_timestamp() at time zone 'UTC')::date;
    name text;
    made integer := 0;
begin
    -- Two that make the same day at once would both find it missing.
    perform pg_advisory_xact_lock(hashtext('pgqueue partitions {bare_schema}'));
    for d in 0 .. days loop
        name := format('completed_jobs_%s', to_char(first_day + d, 'YYYYMMDD'));
        continue when to_regclass(format('%I.%I', '{bare_schema}', name)) is not null;
        execute format('create table {schema}.%I (like {schema}.completed_jobs including defaults including constraints including indexes)', name);
        execute format('alter table {schema}.completed_jobs attach partition {schema}.%I for values from (%L) to (%L)', name,
                       (first_day + d)::timestamp at time zone 'UTC', (first_day + d + 1)::timestamp at time zone 'UTC');
        made := made + 1;
    end loop;
    return made;
end
$function$;
comment on function {schema}.make_partitions is 'Makes the missing daily partitions of completed_jobs, from today to so many days ahead; returns how many.';
select {schema}.make_partitions();

-- Skips from priority to priority, and within a lane everything up to its mark: while an old snapshot is held, dead index entries lie there.
create function {schema}.lanes_of(queue text) returns table (priority smallint, mark bigint) language sql stable as $function$
    with recursive last (position) as materialized (select last_value from {schema}.jobs_position),
    lane (priority) as (
        select -32769
        union all
        select coalesce((select j.priority from {schema}.jobs j
                         where j.queue = lanes_of.queue and j.position is not null
                           and j.priority > lane.priority and j.priority < coalesce(kept.priority, 32768)
                         order by j.priority limit 1), kept.priority)
        from lane left join lateral (
            select k.priority from {schema}.lanes k where k.queue = lanes_of.queue and k.priority > lane.priority
            order by k.priority limit 1) kept on true
        where lane.priority is not null)
    select lane.priority::smallint, coalesce(kept.mark, 0)
    from lane left join lateral (
        -- A mark beyond the last position is of another life of the sequence.
        select case when bool_or(k.proven) then min(k.mark) end as mark from {schema}.lanes k, last
        where k.queue = lanes_of.queue and k.priority = lane.priority and k.mark <= last.position) kept on true
    where lane.priority >= -32768
    order by lane.priority;
$function$;
comment on function {schema}.lanes_of is 'The priorities of a queue, and for each the position up to which nothing is available.';

create function {schema}.add_counts(counts integer[], more integer[]) returns integer[] language plpgsql immutable as $function$
begin
    for n in coalesce(array_lower(more, 1), 0) .. coalesce(array_upper(more, 1), -1) loop
        counts[n] := coalesce(counts[n], 0) + more[n];
    end loop;
    return counts;
end
$function$;
comment on function {schema}.add_counts is 'The sum of two histograms of task_minutes, subscript by subscript.';
