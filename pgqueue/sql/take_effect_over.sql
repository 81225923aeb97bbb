-- A key goes from a call that ended without a word to one that begins. A fence is never used again: what was over stays over.
update {schema}.effects
set request = %(request)s, job_id = %(job_id)s, fence = %(fence)s, begun_at = clock_timestamp()
where key = %(key)s and job_id = %(old_job_id)s and fence = %(old_fence)s and done_at is null
returning key
