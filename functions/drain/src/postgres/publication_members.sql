-- The tables that the publications $1 have, each with its publication.
--
-- Partitions of these tables are not among them. `is_listed` is true for a table that is listed by its name.
-- PostgreSQL 14 has no table `pg_publication_namespace`, so its dependencies name the schemas.
publications as materialized (
  select p.oid, p.pubname::text as name, p.puballtables as has_all, p.pubviaroot as is_via_root,
         coalesce(to_jsonb(p) ->> 'pubgencols' = 's', false) as has_generated,
         p.pubinsert or p.pubupdate as sends_rows
  from pg_publication p where p.pubname = any($1)),
members as materialized (
  select r.prrelid as oid, p.name as publication, p.is_via_root, true as is_listed
  from publications p join pg_publication_rel r on r.prpubid = p.oid
  union all
  select c.oid, p.name, p.is_via_root, false
  from publications p
  join pg_depend d on d.refclassid = 'pg_publication'::regclass and d.refobjid = p.oid
  join pg_depend s on s.classid = d.classid and s.objid = d.objid
    and s.refclassid = 'pg_namespace'::regclass
  join pg_class c on c.relnamespace = s.refobjid and c.relkind in ('r', 'p')
  where d.classid = to_regclass('pg_catalog.pg_publication_namespace')
  union all
  select c.oid, p.name, p.is_via_root, false
  from publications p join pg_class c on c.relkind in ('r', 'p')
  where p.has_all)
