-- Members of flows that have ended, or live again: those that wait for them count it.
select told, due from {schema}.settle_flows(%(count)s)
