-- The tables whose replica identity has a generated column. `is_stored` is true if all of these are stored.
--
-- From PostgreSQL 18 on, updates and deletes of such a table are refused, unless its publication publishes
-- the generated columns. The partitions of a partitioned table inherit only its primary key.
generated_identities as materialized (
  select c.oid, bool_and(a.attgenerated = 's') as is_stored
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated <> ''
  where current_setting('server_version_num')::int >= 180000
    and (c.relreplident = 'f' and c.relkind = 'r' or exists (
      -- The indexes of an int2vector begin at 0. The columns of `include` follow those of the key.
      select from pg_index i
      where i.indrelid = c.oid and a.attnum = any((i.indkey::int2[])[0:i.indnkeyatts - 1])
        and case when c.relkind = 'p' or c.relreplident = 'd' then i.indisprimary
                 else c.relreplident = 'i' and i.indisreplident end))
  group by c.oid)
