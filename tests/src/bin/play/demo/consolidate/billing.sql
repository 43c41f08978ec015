-- PostgreSQL 17: an invoice for each order. The numbers of the orders are its keys, as in the other
-- databases.
create schema billing;
create table billing.invoices (order_id int primary key, paid numeric(10, 2) not null, letter text);
alter table billing.invoices alter letter set storage external;
insert into billing.invoices
    select i, (i % 9973) / 100.0, case when i % 20 = 0 then repeat(md5(i::text), 100) end
    from generate_series(1, 20000) as i;
create publication spillway for table billing.invoices;
