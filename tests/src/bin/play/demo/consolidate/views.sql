create or replace macro of_table(source, name) as table
    select data from rows
    where source_name = source and schema_name = source and table_name = name and not deleted;
create schema shop;
create schema billing;
create schema logistics;
create view shop.customers as
    select unnest(from_json(data, '{"id": "INTEGER", "name": "VARCHAR", "country": "VARCHAR"}'))
    from of_table('shop', 'customers');
create view shop.orders as
    select unnest(from_json(data, '{"id": "INTEGER", "customer_id": "INTEGER", "amount": "DECIMAL(10,2)"}'))
    from of_table('shop', 'orders');
create view billing.invoices as
    select unnest(from_json(data, '{"order_id": "INTEGER", "paid": "DECIMAL(10,2)"}'))
    from of_table('billing', 'invoices');
create view logistics.shipments as
    select unnest(from_json(data, '{"order_id": "INTEGER", "carrier": "VARCHAR", "delivered": "BOOLEAN"}'))
    from of_table('logistics', 'shipments');
