-- Puts rows of breaker_counts together where there are many, and drops what no breaker looks at any more.
with time as materialized (select clock_timestamp() as now),
since as materialized (
    select b.scope, b.name, b.within, greatest(time.now - make_interval(secs => b.within), b.counted_from) as at from {schema}.breakers b, time),
many as materialized (
    select scope, name from {schema}.breaker_counts group by scope, name having count(*) > %(many)s),
gone as (
    delete from {schema}.breaker_counts where id = any (array(
        select c.id from {schema}.breaker_counts c left join since s using (scope, name)
        where s.at is null or c.at <= s.at or (c.scope, c.name) in (select scope, name from many)
        order by c.id limit %(count)s for update of c skip locked))
    returning scope, name, at, failures, attempts),
kept as (
    insert into {schema}.breaker_counts (scope, name, at, failures, attempts)
    select scope, name, max(gone.at), sum(gone.failures), sum(gone.attempts) from gone join since s using (scope, name)
    where gone.at > s.at
    group by scope, name, floor(extract(epoch from gone.at) / s.within * %(parts)s))
select count(*) from gone
