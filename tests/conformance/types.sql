-- Every type that PostgreSQL 15 ships, those of its extensions, and types that applications define.
--
-- Each type has a table of its own, named `of_` and the type: Debezium confuses a type with a table of its
-- name. Its column `one` has the type. The columns `many` and `gaps` are arrays of it, `gaps` with a null.
-- `make conformance` fails while a type of pg_type has no column here.
--
-- Debezium Server 3.6 does not start on a database with a domain on an enum, and stops at a
-- `time with time zone` whose offset has seconds. Both are left out.

set timezone = 'UTC';
set client_min_messages = 'warning';
create extension hstore;
create extension citext;
create extension ltree;
create extension isn;
create extension cube;
create extension seg;
create extension lo;
create extension intarray;
create extension pg_trgm;

create type mood as enum ('ok', 'so "so"', 'très, bien');
create type pair as (a int, b text);
create type span as range (subtype = float8, multirange_type_name = spans);
create domain small as int check (value < 1000);
create domain smaller as small;
create domain sum_of as numeric(12, 2);
create domain any_sum as numeric;
create domain raw as bytea;
create domain ints as int[];
create domain flag as bit(1);
create domain at as timestamp(3);
create domain wait as interval;
create domain cash as money;
create domain place as point;
create domain attributes as hstore;

create schema typed;

-- Creates the table of a type and inserts a null and the values, alone and in arrays.
create procedure try(type text, variadic texts text[] default '{}') language plpgsql as $$
declare
    name text := 'of_' || trim('_' from regexp_replace(lower(type), '[^a-z0-9]+', '_', 'g'));
    delimiter text;
    text text;
    item text;
    id int := 1;
begin
    execute format('create table typed.%I (id int primary key, one %s, many %s[], gaps %s[])',
                   name, type, type, type);
    execute format('alter table typed.%I replica identity full', name);
    execute format('insert into typed.%I values (1, null, null, null)', name);
    select typdelim into delimiter from pg_attribute join pg_type on pg_type.oid = atttypid
    where attrelid = format('typed.%I', name)::regclass and attname = 'gaps';
    foreach text in array texts loop
        id := id + 1;
        item := '"' || replace(replace(text, '\', '\\'), '"', '\"') || '"';
        execute format('insert into typed.%I values (%s, %L::%s, %L::%s[], %L::%s[])', name, id, text, type,
                       '{' || item || '}', type, '{' || item || delimiter || 'NULL}', type);
    end loop;
    execute format('update typed.%I set gaps = null where id = 2', name);
    execute format('delete from typed.%I where id = 2', name);
end $$;

-- Numbers.
call try('smallint', '-32768', '0', '32767');
call try('integer', '-2147483648', '0', '2147483647');
call try('bigint', '-9223372036854775808', '0', '9223372036854775807');
call try('oid', '0', '2147483648', '4294967295');
call try('real', '0', '-0', '0.1', '1', '3.4028235e38', '1e-45', '100000', '1e6', '1e15', 'NaN', 'Infinity',
    '-Infinity');
call try('double precision', '0', '-0', '0.1', '1', '-5e-324', '1.7976931348623157e308',
    '0.30000000000000004',
    '100000', '1e7', '1e-3', '1e-4', '1e15', '1e16', '1e21', 'NaN', 'Infinity', '-Infinity');
call try('numeric', '0', '1.10', '-12.5', '1e40', '1e-30', '123456789012345678901234567890.123456789', '100',
    'NaN', 'Infinity', '-Infinity', '0.00', '1.00', '1000.500');
call try('numeric(10)', '0', '-1', '9999999999', 'NaN');
call try('numeric(10,2)', '0', '1.1', '-99999999.99', 'NaN');
call try('numeric(20,5)', '-12.5', '123456789012345.12345');
call try('numeric(3,-2)', '12300');
call try('numeric(2,5)', '0.00012', '-0.00099');
call try('money', '0', '12.34', '-1234.5', '92233720368547758.07', '-92233720368547758.08');

-- Booleans and bits.
call try('boolean', 'true', 'false');
call try('bit(1)', '0', '1');
call try('bit', '0', '1');
call try('bit(3)', '101', '001');
call try('bit(8)', '00000001', '10000000');
call try('bit(12)', '000000000001', '101010101010', '000000000000');
call try('bit(64)', repeat('1', 64), repeat('01', 32));
call try('bit varying', '', '1', '0', '10', '1000000000000001');
call try('bit varying(1)', '', '1', '0');
call try('bit varying(12)', '', '101010101010', '0001');

-- Text.
call try('text', '', 'null', e'it''s "quoted" \\ and\n\ttwo lines\r\b\f\x01\x7f',
    e'größe 大きい 🐘 e\u0301 \u2028', '</script>&');
call try('character varying', '', 'x');
call try('character varying(20)', '', ' x ');
call try('character(5)', '', 'ab', 'abcde');
call try('character', 'x', ' ');
call try('bpchar', 'x', 'x  ');
call try('"char"', 'x', '');
call try('name', 'a name', '');
call try('citext', 'MiXed', '');
call try('xml', '<a b="c">d</a>', '');
call try('json', '{"b": 1,  "a": [null, "x\"y"]}', 'null', '"text"', '1.10');
call try('jsonb', '{"b": 1,  "a": 1.10}', 'null', '[]', '"text"', '1.10');
call try('jsonpath', '$.a[*] ? (@ > 1)');
call try('uuid', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '00000000-0000-0000-0000-000000000000');
call try('tsvector', '''it''''s'':1 b:2', '');
call try('tsquery', 'a & (b | !c)', '');
call try('refcursor', 'c');

-- Bytes.
call try('bytea', '\x', '\x00', '\x00ff5c27220a', '\xfbffbf');

-- Dates and times.
call try('date', '2024-02-29', '1970-01-01', '1969-12-31', '0001-01-01', '12345-06-07', '5874897-12-31',
    '0044-03-15 BC', '4713-01-01 BC', 'infinity', '-infinity');
call try('time', '00:00', '12:34:56', '12:34:56.789', '12:34:56.789012', '12:00', '23:59:59.999999', '24:00');
call try('time(0)', '12:34:56', '00:00', '24:00');
call try('time(3)', '12:34:56.789', '12:34:56', '00:00:00.1');
call try('time(6)', '12:34:56.789012', '12:34:56.7');
call try('time with time zone', '00:30:00.5+05:30', '23:30-02', '12:34:56.789012+00', '24:00+00',
    '00:00-15:59');
call try('time(0) with time zone', '12:34:56+01');
call try('timestamp', '2024-02-29 12:34:56', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789012',
    '1970-01-01', '2024-02-29 12:00',
    '1969-12-31 23:59:59.999999', '0001-01-01', '1582-10-04 12:00', '9999-12-31 23:59:59.999999',
    '12345-06-07 08:09:10',
    '294276-12-31 23:59:59.999999', '0044-03-15 12:00 BC', '4713-01-01 00:00:01 BC', 'infinity', '-infinity');
call try('timestamp(0)', '2024-02-29 12:34:56', '1969-12-31 23:59:59', '2024-02-29', 'infinity');
call try('timestamp(3)', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.7', '1969-12-31 23:59:59.999',
    '-infinity');
call try('timestamp(6)', '2024-02-29 12:34:56.789012');
call try('timestamp with time zone', '2024-02-29 12:34:56+05:30', '2024-02-29 12:34:56.7+00',
    '2024-02-29 12:34:56.789012+00',
    '1970-01-01 00:00+00', '2024-02-29 12:00+00', '1969-12-31 23:59:59.999999+00', '0001-01-01 00:00+00',
    '1582-10-04 12:00+00', '9999-12-31 23:59:59.999999+00',
    '12345-06-07 08:09:10+00', '294276-12-31 23:59:59.999999+00', '0044-03-15 12:00+00 BC',
    '4713-01-01 00:00:01+00 BC', 'infinity', '-infinity');
call try('timestamp(0) with time zone', '2024-12-31 23:30:00-01');
call try('timestamp(3) with time zone', '2024-02-29 12:34:56.789+00', '2024-02-29 12:34:56.7+00');
call try('interval', '1 year 2 mons 3 days 4:05:06.7', '-1 day 2 hours', '0', '2 hours', '1 mon -1 day',
    '-1 year', '-0.000001 s', '1.5 s',
    '123456.789012 s', '1000 hours', '-1 year -2 mons +3 days -4:05:06.789', '178000000 years', '-14 mons',
    '1 day -0.5 s');
call try('interval(3)', '1.234567 s', '-1.5 s');
call try('interval year to month', '14 mons');
call try('interval day to second(3)', '1 day 2:03:04.567');

-- Networks.
call try('inet', '192.168.0.1/24', '10.0.0.1', '::1', '2001:db8::/32');
call try('cidr', '10.0.0.0/8', '::/0', '10.1.2.3/32');
call try('macaddr', '08-00-2b-01-02-03');
call try('macaddr8', '08-00-2b-01-02-03-04-05');

-- Geometry.
call try('point', '(1,-2.5)', '(0,0)', '(1e300,1e-300)', '(NaN,Infinity)', '(-0,1e22)');
call try('box', '(3,4),(1,2)');
call try('circle', '<(1,2),3>');
call try('line', '{1,-1,0}');
call try('lseg', '[(1,2),(3,4)]');
call try('path', '[(1,2),(3,4)]', '((1,2),(3,4))');
call try('polygon', '((0,0),(1,0),(1,1))');
call try('cube', '(1,2),(3,4)');
call try('seg', '1 .. 2', '~5');

-- Ranges.
call try('int4range', '[1,10)', 'empty', '(,)');
call try('int8range', '[1,10)', '[,5]');
call try('numrange', '[1.10,2.5)', 'empty');
call try('tsrange', '[2024-01-01 00:00,2024-02-01 00:00)', '[-infinity,infinity]');
call try('tstzrange', '[2024-01-01 00:00+00,)', '(,2024-01-01 01:00+01]');
call try('daterange', '[2024-01-01,2024-02-01)', '(,)');
call try('span', '(0.5,1]');
call try('int4multirange', '{[1,2),[5,9)}', '{}');
call try('int8multirange', '{[1,2)}');
call try('nummultirange', '{[1.5,2)}');
call try('tsmultirange', '{[2024-01-01 00:00,2024-02-01 00:00)}');
call try('tstzmultirange', '{[2024-01-01 00:00+00,)}');
call try('datemultirange', '{[2024-01-01,2024-02-01)}');
call try('spans', '{(0.5,1]}');

-- Types of extensions.
call try('hstore', '"zeta"=>"1", "b"=>"2", "alpha"=>"3", "yy"=>"4"', '"a"=>"1", "b c"=>NULL, "d\"e"=>"\\"',
    '', '"k"=>""');
call try('ltree', 'Top.Science', '');
call try('lquery', 'Top.*{1,2}.A|B');
call try('ltxtquery', 'a & b');
call try('lo', '4294967295');
call try('query_int', '1&(2|3)');
call try('isbn', '978-0-393-04002-9');
call try('isbn13', '978-0-393-04002-9');
call try('ean13', '9780393040029');
call try('ismn', '979-0-1234-5678-5');
call try('ismn13', '979-0-1234-5678-5');
call try('issn', '1436-4522');
call try('issn13', '977-1436-45200-8');
call try('upc', '220356483481');

-- Types of applications.
call try('mood', 'ok', 'so "so"', 'très, bien');
call try('pair', '(1,"x ""y"", z")', '(,)');
call try('small', '7');
call try('smaller', '8');
call try('sum_of', '3.5', '-0.01');
call try('any_sum', '3.5', '12345678901234567890.1');
call try('raw', '\xbeef');
call try('ints', '{1,null}', '{}');
call try('flag', '1', '0');
call try('at', '2024-02-29 12:34:56.789');
call try('wait', '1 day');
call try('cash', '1.5');
call try('place', '(1,2)');
call try('attributes', 'a=>1');
call try('information_schema.cardinal_number', '5');
call try('information_schema.character_data', 'x');
call try('information_schema.sql_identifier', 'x');
call try('information_schema.time_stamp', '2024-02-29 12:34:56.78+00');
call try('information_schema.yes_or_no', 'YES');

-- Types of the server itself.
call try('regproc', 'now', '0');
call try('regprocedure', 'now()');
call try('regoper', 'pg_catalog.||/');
call try('regoperator', '+(integer,integer)');
call try('regclass', 'pg_class', '0');
call try('regtype', 'integer');
call try('regconfig', 'simple');
call try('regdictionary', 'simple');
call try('regnamespace', 'pg_catalog');
call try('regrole', 'postgres');
call try('regcollation', '"C"');
call try('tid', '(1,2)');
call try('xid', '4294967295');
call try('xid8', '18446744073709551615');
call try('cid', '4294967295');
call try('pg_lsn', '16/B374D848', '0/0');
call try('pg_snapshot', '10:20:10,14,15');
call try('txid_snapshot', '10:20:10,14,15');
call try('aclitem', 'postgres=r/postgres');
call try('int2vector', '1 2 3', '');
call try('oidvector', '1 4294967295', '');

-- Their input functions refuse every value, or they have no array.
create table typed.without_array (id int primary key, pg_node_tree pg_node_tree, pg_ndistinct pg_ndistinct,
    pg_dependencies pg_dependencies, pg_mcv_list pg_mcv_list, pg_brin_bloom_summary pg_brin_bloom_summary,
    pg_brin_minmax_multi_summary pg_brin_minmax_multi_summary, gtsvector gtsvector, gtrgm gtrgm,
    ghstore ghstore,
    ltree_gist ltree_gist, intbig_gkey intbig_gkey);
insert into typed.without_array values (1);

-- The row types of the catalog's relations. No column can have one that contains a pseudo-type.
create table typed.row_types (id int primary key);
do $$
declare
    row_type oid;
begin
    for row_type in
        select oid from pg_type
        where typtype = 'c'
          and typnamespace in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
        order by typnamespace, typname
    loop
        begin
            execute format('alter table typed.row_types add %I %s', row_type::regtype, row_type::regtype);
        exception when invalid_table_definition then
        end;
    end loop;
end $$;
insert into typed.row_types (id) values (1);
insert into typed.row_types (id, pg_cast) values (2, row(1, 2, 3, 4, 'e', 'f'));

-- Arrays of other forms.
create table typed.arrays (id int primary key, ints int[], texts text[], sums numeric(6, 2)[], bools bool[],
    deep int[][]);
insert into typed.arrays values
    (1, '{}', '{}', '{}', '{}', '{}'),
    (2, '{null}', '{null}', '{null}', '{null}', null),
    (3, '[0:1]={5,6}', array['a', 'b "c" \', 'd,e', '{f}', '', 'NULL', null, ' g ', e'h\ni', 'ü'],
     '{1.5}', '{t,f}', null),
    (4, '{{1,2},{3,null}}', null, '{{1},{2}}', '{{t},{f}}', '{{{1}}}');
