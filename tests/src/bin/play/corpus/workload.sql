-- Made before the slots are.
--! tables
create type mood as enum ('sad', 'very [happy]: "x"');
create type "Pair.of [x]" as (a int, b text);
create domain positive as int check (value > 0);
create domain price as numeric(12, 2);
create domain "Price ""list""" as price[];
create domain blob as bytea;
create schema "Odd ""Schema""";
create type "Odd ""Schema"".Kind" as enum ('a', 'b');
create type "Odd ""Schema"""."a Kind" as enum ('a', 'b');
create table numbers (
    id int primary key, big bigint, sm smallint, o oid, ok boolean, n numeric(20,4), n2 numeric,
    n3 numeric(3,-2), r real, d double precision, m money
);
create table times (
    id int primary key, dt date, t time, t0 time(0), ttz timetz, ts timestamp, ts3 timestamp(3),
    tstz timestamptz, i interval, i3 interval day to second(3), r tstzrange
);
create table texts (
    id int primary key, t text, v varchar(20), c char(4), q "char", n name, b bytea, j json, jb jsonb,
    x xml, u uuid, bits bit(3), vb varbit(5), ip inet, mac macaddr, p point, ts tsvector
);
create table arrays (
    id int primary key, ia int[], ta text[], na numeric(10,2)[], ba bytea[], tsa timestamptz[], ma mood[],
    ca box[], pl "Price ""list""", bl boolean[], iv int2vector
);
create table own (
    id positive primary key, p price, m mood, c "Pair.of [x]", b blob, k "Odd ""Schema"""."a Kind",
    ks "Odd ""Schema"""."a Kind"[]
);
create table "Odd ""Schema"""."tä.ble: [x], y" (
    "näme: [a] ""q"" " text, "id.1" int, "UPDATE:" text, " old-key:" int, "x new-tuple:" text,
    primary key ("id.1", " old-key:")
);
create table full_id (id int primary key, a text, b numeric, big text);
alter table full_id replica identity full;
alter table full_id alter big set storage external;
create table full_no_key (a text, b int);
alter table full_no_key replica identity full;
create table index_id (id int primary key, code text not null, region int not null, note text);
create unique index index_id_key on index_id (region, code);
alter table index_id replica identity using index index_id_key;
create table nothing_id (id int primary key, a text);
alter table nothing_id replica identity nothing;
create table no_key (a int, b text);
create table composite (a int, b text, c text, primary key (b, a));
create table deferred (id int primary key deferrable initially deferred, v text);
alter table deferred replica identity full;
create table generated (id int primary key, v int, twice int generated always as (v * 2) stored);
create table no_columns ();
create table toasted (id int primary key, big text, a text, other bytea);
alter table toasted alter big set storage external, alter other set storage external;
create table large_key (v int, k text, id int, big text, primary key (k, id));
alter table large_key alter big set storage external, alter k set storage external;
create table parent (id int, at date, v text, primary key (id, at)) partition by range (at);
create table parent_1 partition of parent for values from ('2024-01-01') to ('2025-01-01');
create table parent_2 partition of parent for values from ('2025-01-01') to ('2026-01-01');
create table one (id int primary key);
create table "Two" (id int primary key references one on delete cascade);
create table many (id int primary key, v int);
create table wide (id int primary key);
do $$ begin for i in 1..40 loop execute format('alter table wide add c%s text', i); end loop; end $$;
create table altered (id int primary key, name text, gone text);

-- One peek each.
--! numbers
insert into numbers values
    (1, 9223372036854775807, -32768, 4294967295, true, 12345.6700, 1e-20, 12300, 1.5e10, 1e300, '12.34');
insert into numbers values
    (-2147483648, -9223372036854775808, 32767, 0, false, -0.0001, 123456789012345678901234567890.123456789,
     99900, 1.4e-45, -5e-324, '-0.01');

--! not-numbers
insert into numbers (id, n, n2, r, d) values
    (2, 'NaN', 'NaN', '-Infinity', 'Infinity'),
    (3, null, 'Infinity', 'NaN', '-0');

--! numbers-null
update numbers set big = null, sm = null, o = null, ok = null, n = null, n2 = null, n3 = null, r = null,
    d = null, m = null;

--! times
insert into times values
    (1, '2024-02-29', '12:34:56.789', '23:59:59.9', '12:34:56.5+05:30', '2024-02-29 12:34:56.789',
     '1969-12-31 23:59:59.9999', '2024-02-29 12:34:56.123456+02', '1 year 2 mons -3 days 04:05:06.7',
     '1 day 00:00:01.2345', '[2024-01-01 00:00+00,)');

--! times-at-the-ends
insert into times values
    (2, 'infinity', '24:00', '00:00', '00:00:00-15:59:59', '-infinity', 'infinity',
     '4713-11-24 00:00:00 BC', '-1 year', '0', 'empty'),
    (3, '5874897-12-31', '00:00', '00:00', '00:00+00', '294276-12-31 23:59:59.999999', '0044-03-15 BC',
     'infinity', 'P178956970Y', null, '(,)');

--! texts
insert into texts values
    (1, E'a''b\\c"d\n\te\u00fc\U0001F600 \x01\x7f\u2028', 'var ''char"', 'ab', 'x', 'a name',
     '\x00ff5c27220a', '{"a": [1, "b\"", null]}', '{"a": 1.50, "ü": "\\u0000x"}', '<a b="c">d</a>',
     '00000000-0000-0000-0000-000000000001', B'101', B'1', '192.0.2.1/24', '08:00:2b:01:02:03', '(1.5,-2)',
     'a:1 b:2');

--! texts-that-look-like-syntax
insert into texts (id, t, v) values
    (3, 'null', ''),
    (4, 'unchanged-toast-datum', 'old-key:'),
    (5, E'\'', E'\'\''),
    (6, ' new-tuple: x[text]:''y''', ' (no-tuple-data)'),
    (7, '"},{"name":"id","type":', '\u0022\'),
    (8, E'{"action":"C"}', E'\\"'),
    (9, E'COMMIT 1\n', ': TRUNCATE:');

--! bytea
insert into texts (id, b) values (10, ''), (11, '\x'), (12, decode(repeat('00ff', 60), 'hex'));

--! arrays
insert into arrays values
    (1, '{1,NULL,3}', array['a','b "c" \',null,'NULL','',E'x,y}\n','it''s'], '{1.50,NaN}',
     array['\x00ff'::bytea,null,'\x'], '{"2024-02-29 12:34:56+00",infinity}',
     array['very [happy]: "x"']::mood[], array['((1,2),(3,4))']::box[], '{1.00,2.50}', '{t,f,null}', '1 2 3');

--! arrays-of-arrays
insert into arrays (id, ia, ta, na, bl) values (2, '[0:1]={1,2}', '{}', '{{1,2},{3,4}}', '{{{t}}}');

--! own-types
insert into own values (1, 2.5, 'very [happy]: "x"', (1,E'b"c\'d,e'), '\xdead', 'a', '{a,b}');
update own set m = 'sad', k = 'b';
update own set id = 7;
delete from own;

--! odd-names
insert into "Odd ""Schema"""."tä.ble: [x], y" values
    (E'it''s: [x] \n', 1, ' new-tuple: x[text]:''y''', 2, null);
update "Odd ""Schema"""."tä.ble: [x], y" set "UPDATE:" = 'x';
update "Odd ""Schema"""."tä.ble: [x], y" set "id.1" = 5;
delete from "Odd ""Schema"""."tä.ble: [x], y";

--! identity-full
insert into full_id values (1, 'x', 1.50, null), (2, null, 'NaN', '');
update full_id set a = 'y' where id = 1;
update full_id set id = 3 where id = 2;
update full_id set a = null, b = null where id = 1;
delete from full_id;

--! identity-full-large
insert into full_id values (4, 'x', 1, repeat('j', 2100));
update full_id set a = 'y';

--! identity-full-without-key
insert into full_no_key values ('x', 1), (null, 2), (null, null);
update full_no_key set b = 3;
delete from full_no_key;

--! identity-index
insert into index_id values (1, 'c', 3, 'n');
update index_id set id = 2, note = 'm';
update index_id set code = 'd''d"', region = -1;
delete from index_id;

--! identity-nothing
insert into nothing_id values (1, 'x');

--! no-key
insert into no_key values (1, 'x'), (1, 'x');

--! key-changes
insert into composite values (1, 'k', null), (2, 'k', '');
update composite set c = 'v' where a = 1;
update composite set b = 'it''s', a = 3 where a = 1;
update composite set a = a + 10;
delete from composite;

--! deferrable-key
insert into deferred values (1, 'a'), (2, 'b');
update deferred set id = 3 - id;

--! generated
insert into generated values (1, 21);
update generated set v = 22;
delete from generated;

--! no-columns
insert into no_columns default values;

--! toast
insert into toasted values (1, repeat('a', 2100), 'x', '\x00');
update toasted set a = 'y';
update toasted set id = 2;
update toasted set other = decode(repeat('00', 1100), 'hex'), big = 'small';

--! toast-of-bytes
insert into toasted values (3, 'b', 'x', decode(repeat('fe', 2100), 'hex'));
update toasted set a = 'y' where id = 3;
update toasted set big = null where id = 3;
delete from toasted where id = 3;

--! large-key
insert into large_key values (1, repeat('k', 2100), 7, 'b');
update large_key set v = 2;

--! large-key-changes
update large_key set k = 'short';
delete from large_key;

--! partitions
insert into parent values (1, '2024-05-05', 'a'), (2, '2025-05-05', 'b');
update parent set at = '2025-06-06' where id = 1;
delete from parent where id = 2;

--! truncate
insert into one values (1); insert into "Two" values (1);
truncate one, "Two" restart identity cascade;
truncate "Two";
truncate parent;

--! cascade
insert into one values (1), (2); insert into "Two" values (1), (2);
delete from one;

--! multi-insert
insert into many select n, n * n from generate_series(1, 9) n;

--! copy
copy many from program 'seq -f "%g	1" 101 108';

--! many-updates
update many set v = -v where id < 4;
delete from many where id < 3;

--! wide
insert into wide (id, c1, c40) values (1, 'first', 'last');
update wide set c20 = 'middle';

--! messages
select pg_logical_emit_message(true, 'pre, sz: 3 content:fix', E'con"tent\n\\ ü');
select pg_logical_emit_message(true, 'bytes', '\xff4122'::bytea);
select pg_logical_emit_message(true, 'zero', '\x610062'::bytea);
select pg_logical_emit_message(true, '', '');
select pg_logical_emit_message(true, 'spillway.marker', '{"slot":"s","number":12,"nonce":"5f0c"}');

--! messages-outside
begin;
select pg_logical_emit_message(false, 'at once', 'x');
insert into one values (3);
select pg_logical_emit_message(false, E'pre"fix\n', '\x00'::bytea);
rollback;
select pg_logical_emit_message(false, 'alone', 'y');

--! columns-change
begin;
insert into altered values (1, 'a', 'b');
alter table altered add extra text default 'e', drop gone;
update altered set name = 'c';
alter table altered rename name to "Name";
update altered set extra = 'x';
alter table altered alter extra drop default;
alter table altered alter extra type int using 7;
delete from altered;
commit;

--! tables-come-and-go
begin;
create table late (id int primary key, m mood, "Ω" text);
insert into late values (1, 'sad', 'ω');
alter table late rename to later;
alter table later rename "Ω" to "ο";
update later set m = null;
alter table later set schema "Odd ""Schema""";
delete from "Odd ""Schema""".later;
drop table "Odd ""Schema""".later;
commit;

--! savepoints
begin;
insert into one values (10);
savepoint a; insert into one values (11); rollback to a;
savepoint b; insert into one values (12); release b;
commit;

--! empty
begin; create table empty (id int); commit;
