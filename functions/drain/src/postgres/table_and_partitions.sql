-- The object ids of the table $1.$2, and of the tables below it: partitions, and tables that inherit.
with recursive t(oid) as (
  select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1::text and c.relname = $2::text
  union
  select i.inhrelid from t join pg_inherits i on i.inhparent = t.oid)
