-- After Divergence or SystemChanged only: positions of the source start again at spillway.gap_accepted. Replace
-- SOURCE, and orders for each table. Run the first two statements before you accept the gap, with the schedule of the merge off:
refresh materialized view spillway.events;
call spillway.merge_orders();

-- Then these, and switch the schedule on. Everything that is stored is now older than what comes.
update spillway.orders set position = '', body_at = '' where source_name = 'SOURCE';
delete from spillway.floors where target = 'orders' and source_name = 'SOURCE';
delete from spillway.orders_deleted where source_name = 'SOURCE';
