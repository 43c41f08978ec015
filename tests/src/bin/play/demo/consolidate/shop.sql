-- PostgreSQL 15: customers and their orders.
create schema shop;
create table shop.customers (id int primary key, name text not null, country text not null);
create table shop.orders (
    id int primary key,
    customer_id int not null,
    amount numeric(10, 2) not null,
    note text
);
-- Stored outside of the row, so an update that leaves it unchanged does not send it.
alter table shop.orders alter note set storage external;
insert into shop.customers
    select i, 'customer ' || i, (array['CH', 'DE', 'FR', 'IT'])[1 + i % 4] from generate_series(1, 1000) as i;
insert into shop.orders
    select i, 1 + i % 1000, (i % 9973) / 100.0, case when i % 20 = 0 then repeat(md5(i::text), 100) end
    from generate_series(1, 20000) as i;
