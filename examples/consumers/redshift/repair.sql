-- After spillway.repaired: rows that the source no longer has are removed. Run the statements one by one, as
-- the owner of the schema spillway. Each may be repeated. Repeat one that fails with a serializable isolation
-- violation. Replace in steps 1 and 4
--   SOURCE                    by the source: SourceName of the file in deploy/, or else its SlotName
-- and for each table in steps 3 and 4
--   'orders', merge_orders    by the name of the table, and by that of its procedure
--   "public.orders"           by its name in the database

-- 1. Until this shows the message of your repair. Before that, the repair still runs.
refresh materialized view spillway.events;
select arrived, source_name, position, content
from spillway.control_messages
where prefix = 'spillway.repaired' and source_name = 'SOURCE'
order by arrived desc;

-- 2. Once more. A refresh reads each shard up to its end, and the rows of the repair were in the stream
--    before its message. So this refresh has all of them, from each shard.
refresh materialized view spillway.events;

--    To be sure, check each shard. It was read far enough if its newest_record is later than the message,
--    or if another refresh does not change it. Otherwise repeat step 2.
select partition_id, max(stream_record_time_max) as newest_record
from sys_stream_scan_states
where mv_name = 'events'
group by partition_id
order by partition_id;

-- 3. All rows of the repair are merged before anything is removed.
call spillway.merge_orders();

-- 4. Rows of this source that were not sent since the repair began do not exist. This inserts one row. If it
--    inserts none, the content of the message does not name the table: repair that table alone
--    (events/repair_table.json).
insert into spillway.floors (target, source_name, position)
select 'orders', source_name, json_extract_path_text(content, 'since')
from spillway.control_messages
where prefix = 'spillway.repaired' and source_name = 'SOURCE' and strpos(content, '"public.orders"') > 0
order by arrived desc
limit 1;
call spillway.merge_orders();
