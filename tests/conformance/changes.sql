-- Every operation, on tables with each kind of key. Each statement is a transaction.

create schema changed;
create table changed.keyed (id int primary key, n int not null default 7, v text, big text);
alter table changed.keyed alter big set storage external;
create table changed.two ("A b" int, c text, v text, primary key (c, "A b"));
create table changed.whole (id int primary key, v text, big text);
alter table changed.whole alter big set storage external;
alter table changed.whole replica identity full;
create table changed.keyless (n int, v text);
create table changed.keyless_whole (n int, v text);
alter table changed.keyless_whole replica identity full;
create table changed.indexed (id int primary key, other int not null unique, v text);
alter table changed.indexed replica identity using index indexed_other_key;
create table changed.parts (id int primary key, v text) partition by range (id);
create table changed.part_1 partition of changed.parts for values from (0) to (10);
insert into changed.keyed values (1, 1, 'a', repeat('x', 3000)), (2, 2, null, null);
update changed.keyed set v = 'b' where id = 1;
update changed.keyed set v = 'b' where id = 2;
update changed.keyed set big = null where id = 1;
update changed.keyed set id = 3, big = repeat('y', 3000) where id = 1;
update changed.keyed set id = 4 where id = 3;
delete from changed.keyed where id = 4;
insert into changed.two values (1, 'x', 'v'), (2, 'y "z"', null);
update changed.two set v = 'w';
update changed.two set c = 'q' where c = 'x';
delete from changed.two;
insert into changed.whole values (1, 'a', repeat('x', 3000));
update changed.whole set v = 'b';
update changed.whole set id = 2;
delete from changed.whole;
insert into changed.keyless values (1, 'a'), (1, 'a'), (null, null);
insert into changed.keyless_whole values (1, 'a'), (1, 'a');
update changed.keyless_whole set v = 'b';
delete from changed.keyless_whole;
insert into changed.indexed values (1, 10, 'a');
update changed.indexed set v = 'b';
update changed.indexed set id = 2;
update changed.indexed set other = 20;
delete from changed.indexed;
insert into changed.parts values (1, 'a');
update changed.parts set v = 'b';
delete from changed.parts;
begin; insert into changed.keyed values (5, 5); update changed.keyed set n = 6 where id = 5;
delete from changed.keyed where id = 5; commit;
alter table changed.keyed add more int default 3;
insert into changed.keyed (id) values (6);
alter table changed.keyed drop column v;
insert into changed.keyed (id) values (7);
create table changed.large (id int primary key, v int, text text, bytes bytea, number numeric,
    bits bit varying, pairs hstore, texts text[], ints int[], dates date[], uuids uuid[]);
alter table changed.large alter text set storage external, alter bytes set storage external,
    alter number set storage external, alter bits set storage external, alter pairs set storage external,
    alter texts set storage external, alter ints set storage external, alter dates set storage external,
    alter uuids set storage external;
insert into changed.large select 1, 1, repeat('x', 2200), decode(repeat('ab', 2200), 'hex'),
    ('0.' || repeat('7', 4600))::numeric, repeat('10', 9000)::bit varying, hstore('k', repeat('x', 2200)),
    array_agg('text' || i) filter (where i <= 250), array_agg(i), array_agg('2024-01-01'::date + i),
    array_agg(md5(i::text)::uuid) filter (where i <= 150) from generate_series(1, 600) i;
update changed.large set v = 2;
truncate changed.keyed;
truncate changed.two, changed.whole;
select pg_logical_emit_message(true, 'said', 'it');
select pg_logical_emit_message(false, 'shouted', 'it "now"');
create table changed.last (id int primary key);
insert into changed.last values (1);
