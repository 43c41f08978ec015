-- The tables whose changes the slot sends, with the names that events have.
--
-- If $2 is true, they are the tables of the publications $1. publish_via_partition_root decides whether
-- these are partitioned tables or their partitions. If $2 is false, they are all permanent tables of users
-- that store rows. A partitioned table stores no rows, so its partitions are listed instead. The query
-- follows published_tables.sql.
select c.oid as oid, n.nspname::text as schema, c.relname::text as name
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where not $2 and c.relkind = 'r' and c.relpersistence = 'p' and c.oid >= 16384
union
select p.oid, p.schema, p.name from published p where $2
