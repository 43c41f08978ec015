-- The tables of the publications $1. For one publication, they are those of the view pg_publication_tables.
--
-- The names are those that events have: publish_via_partition_root decides between a partitioned table and
-- its partitions. `columns` is null before PostgreSQL 15, which has neither column lists nor row filters.
--
-- The view is not used. From PostgreSQL 16 on, it opens each table, and so it waits for every session that
-- has locked one, as `alter table` does.
below(root, oid) as (
  select i.inhparent, i.inhrelid
  from pg_inherits i join pg_class c on c.oid = i.inhrelid and c.relispartition
  union
  select b.root, i.inhrelid from below b join pg_inherits i on i.inhparent = b.oid),
covered as materialized (
  -- Partitions of a member that is published under its own name. pgoutput sends their rows under the name of
  -- the topmost such member of all publications.
  select distinct b.oid
  from members m join below b on b.root = m.oid
  where m.is_via_root),
published_oids as materialized (
  select distinct m.publication, c.oid
  from members m
  left join below b on b.root = m.oid and not m.is_via_root
  join pg_class c on c.oid = coalesce(b.oid, m.oid)
  left join covered v on v.oid = c.oid
  where c.relpersistence = 'p' and c.oid >= 16384 and v.oid is null
    and (m.is_via_root or c.relkind = 'r')),
published as not materialized (
  select l.publication, l.oid, n.nspname::text as schema, c.relname::text as name,
         case when current_setting('server_version_num')::int >= 150000 then array(
           select a.attname::text
           from pg_attribute a
           where a.attrelid = l.oid and a.attnum > 0 and not a.attisdropped
             and case when r.attnums is null
                      then a.attgenerated = '' or a.attgenerated = 's' and p.has_generated
                      else a.attnum = any(r.attnums::int2[]) end
           order by a.attnum) end as columns,
         -- A publication of the whole schema, or of all tables, has no row filters.
         case when r.filter is not null and not exists (
                select from members m
                where m.publication = l.publication and m.oid = l.oid and not m.is_listed)
              then pg_get_expr(r.filter, l.oid) end as filter,
         p.sends_rows
  from published_oids l
  join publications p on p.name = l.publication
  join pg_class c on c.oid = l.oid
  join pg_namespace n on n.oid = c.relnamespace
  -- PostgreSQL 14 has no such columns. There, the subquery below reads these ones.
  cross join (select null::int2vector as prattrs, null::pg_node_tree as prqual) absent
  left join lateral (
    select prattrs as attnums, prqual as filter
    from pg_publication_rel
    where prpubid = p.oid and prrelid = l.oid) r on true)
