-- For another table, replace orders, id, amount and body. Repeat without_body for each large column.

-- Records that Redshift could not read. Each is a lost change. Both counts must be 0.
-- skipped_rows: larger than Redshift takes. unparsed: no JSON, or a string that is longer than SUPER takes.
select mv_name, sum(skipped_rows) as skipped_rows from sys_stream_scan_states group by mv_name;
select count(*) as unparsed, min(approximate_arrival_timestamp) as since
from spillway.events
where unparsed is not null;

-- The shards that were read, up to which time of arrival. A shard without records is not listed.
select
    partition_id,
    max(record_time) as read_at,
    max(stream_record_time_max) as newest_record,
    sum(scanned_rows) as records
from sys_stream_scan_states
where mv_name = 'events'
group by partition_id
order by partition_id;

-- Changes that wait for a merge. Repeat it after a merge: 0.
select count(*) as not_merged
from spillway.orders_changes as c
left join spillway.progress as p on p.target = 'orders' and p.shard_id = c.shard_id
where p.shard_id is null or c.sequence_number > p.sequence_number;

-- Changes without a key, which the merge leaves out. It must be 0: see "Rows without a key" in
-- docs/events.md.
select count(*) as without_key from spillway.orders_changes where op <> 't' and id is null;

-- Rows that wait for the row of their old key, or whose body no change had, or whose body was omitted for its
-- size. It must be 0 after a repair.
select count(*) as without_body
from public.orders
where body in ('__debezium_unavailable_value', '__omitted_because_of_its_size');

-- Compare with the database: select count(*), sum(id), sum(amount) from public.orders. While it is written
-- to, the figures of the last two minutes differ: compare again.
select source_name, count(*) as rows_in_all, sum(id) as ids, sum(amount) as amounts
from public.orders
group by source_name
order by source_name;
