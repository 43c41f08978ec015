-- The types that are not built in, and the types that they consist of. $1 are the OIDs of further types,
-- those of columns.
--
-- Each table has a row type, and an array type of it. A database with many tables has twice as many of these
-- types. They are read only if a column has such a type.
with recursive t(oid) as (
  -- The planner expects few elements of an array, so it looks up each type by its OID.
  select o.oid
  from unnest($1::oid[] || array(
    select unnest(array[y.oid, y.typarray])
    from pg_type y
    where y.oid >= 16384 and y.typtype <> 'c' and y.typarray <> 0
    union all
    select unnest(array[y.oid, y.typarray])
    from pg_class c
    join pg_type y on y.oid = c.reltype
    where c.relkind = 'c' and c.oid >= 16384)) o(oid)
  union
  select part.oid
  from t
  join pg_type y on y.oid = t.oid
  cross join lateral (values (y.typelem), (y.typbasetype)) part(oid)
  where part.oid >= 10000)
select
  y.oid,
  n.nspname::text as schema,
  y.typname::text as name,
  format_type(y.oid, null) as printed,
  (select x.extname::text
   from pg_depend d
   join pg_extension x on x.oid = d.refobjid
   where d.classid = 'pg_type'::regclass and d.objid = y.oid and d.objsubid = 0 and d.deptype = 'e'
     and d.refclassid = 'pg_extension'::regclass) as extension,
  case when y.typtype = 'd' then y.typbasetype end as base,
  y.typtypmod as base_modifier,
  format_type(y.typbasetype, y.typtypmod) as base_name,
  -- An array is a type that array_out prints. array_out separates the elements by their type's delimiter.
  e.oid as element,
  e.typdelim as delimiter
from t
join pg_type y on y.oid = t.oid
join pg_namespace n on n.oid = y.typnamespace
left join pg_type e
  on e.oid = y.typelem and y.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
  and y.typoutput = 'pg_catalog.array_out'::regproc
