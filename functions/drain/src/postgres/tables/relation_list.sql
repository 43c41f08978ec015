-- All relations of the database, without their keys and columns.
select
  n.nspname::text as schema,
  c.relname::text as name,
  c.oid as oid,
  c.relkind::text as kind,
  c.relpersistence = 'p' as is_permanent,
  array(select a.relid::oid from pg_partition_ancestors(c.oid) a where a.relid <> c.oid) as roots,
  -- The rows of a partitioned table are those of its leaves.
  case when c.relkind <> 'p' then nullif(c.reltuples, -1)::int8 else (
    with recursive down(oid) as (
      select inhrelid from pg_inherits where inhparent = c.oid
      union
      select i.inhrelid from down join pg_inherits i on i.inhparent = down.oid)
    select sum(nullif(l.reltuples, -1))::int8
    from down join pg_class l using (oid)
    where l.relkind = 'r') end as estimated_rows,
  not exists (
    select from pg_attribute a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as lacks_columns
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname::text !~ '^pg_(toast|temp)'::text
