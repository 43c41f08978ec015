-- After Divergence or SystemChanged only: positions of the source start again at spillway.gap_accepted.
-- Replace SOURCE, and orders for each table. Run it before you accept the gap, with the schedule of the merge
-- off.

-- Earlier changes are merged.
refresh materialized view spillway.events;
call spillway.merge_orders();

-- Everything that is stored is now older than later changes. A body that is not known remains unknown: its
-- body_at is null.
update spillway.orders
set position = '', body_at = case when body_at is not null then '' end
where source_name = 'SOURCE';
delete from spillway.floors where target = 'orders' and source_name = 'SOURCE';
delete from spillway.orders_deleted_body where source_name = 'SOURCE';
