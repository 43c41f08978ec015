-- PostgreSQL 18: a shipment for each order, in partitions that are published as one table.
create schema logistics;
create table logistics.shipments (order_id int primary key, carrier text not null, delivered bool not null)
    partition by range (order_id);
create table logistics.shipments_1 partition of logistics.shipments for values from (1) to (10001);
create table logistics.shipments_2 partition of logistics.shipments for values from (10001) to (20001);
create table logistics.shipments_3 partition of logistics.shipments default;
insert into logistics.shipments
    select i, (array['post', 'rail', 'bike'])[1 + i % 3], i % 5 = 0 from generate_series(1, 20000) as i;
create publication spillway for table logistics.shipments with (publish_via_partition_root = true);
