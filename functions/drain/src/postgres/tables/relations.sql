-- The relations with the given names. $1 are schemas and $2 are names, in pairs. `listed` is
-- relation_list.sql.
--
-- The key_… columns describe the best index to read a relation by: unique, valid, not deferrable, not
-- partial, not over expressions, and over not-null columns only. Among those, the index of the replica
-- identity is the best one, because updates always log its old key. A not-null constraint that is not
-- validated does not count: rows may still be null.
--
-- Only a B-tree has an order to read by. The GiST index of a key without overlaps (PostgreSQL 18) has none.
-- If such an index is the best one, the relation has no key here, and no other index replaces it. If it is
-- the replica identity, the log does not have the old key of another index. A changed row could then not be
-- found by that key.
select
  l.schema,
  l.name,
  l.oid,
  l.kind,
  l.is_permanent,
  l.roots,
  l.estimated_rows,
  l.lacks_columns,
  -- Another session may drop the relation meanwhile. The functions then return null.
  coalesce(has_schema_privilege(n.oid, 'usage'), false) as may_use_schema,
  coalesce(row_security_active(c.oid), false) as hides_rows,
  k.names as key_names,
  k.operators as key_operators,
  k.collations as key_collations,
  k.nulls_first as key_nulls_first,
  k.column_casts as key_column_casts,
  k.casts as key_casts,
  k.identities as key_identities,
  c.relreplident <> 'n' as is_identified,
  a.names as column_names,
  a.readable as column_readable,
  a.generated as column_generated,
  a.virtual as column_virtual,
  a.size_probes as column_size_probes
from unnest($1::text[], $2::text[]) w(schema, name)
join pg_namespace n on n.nspname = w.schema
join pg_class c on c.relnamespace = n.oid and c.relname = w.name
-- Joined by oid, which has an index. `listed` has the names as text, for which there is no index.
join listed l on l.oid = c.oid
cross join lateral (
  select
    array_agg(a.attname::text order by k.place),
    -- The strategies 1, 3, 4 and 5 of a B-tree: less, equal, at least, greater.
    array_agg((
      select string_agg(pg_catalog.format('operator(%I.%s)', opn.nspname, op.oprname),
        chr(1) order by am.amopstrategy)
      from pg_opclass oc
      join pg_amop am
        on am.amopfamily = oc.opcfamily and am.amoplefttype = oc.opcintype and am.amoprighttype = oc.opcintype
      join pg_operator op on op.oid = am.amopopr
      join pg_namespace opn on opn.oid = op.oprnamespace
      where oc.oid = k.class and am.amoppurpose = 's' and am.amopstrategy in (1, 3, 4, 5)) order by k.place),
    array_agg(
      case when k.coll <> a.attcollation
           then pg_catalog.format('%I.%I', cn.nspname, co.collname) end order by k.place),
    -- An index is read forward or backward, so 1 (descending) and 2 (nulls first) are the same order.
    array_agg(k.options in (1, 2) order by k.place),
    -- The operators of enums accept no domain.
    array_agg((
      with recursive based_on as (
        select t.oid, t.typbasetype
        from pg_type t
        where t.oid = a.atttypid and t.typtype = 'd'
        union all
        select t.oid, t.typbasetype
        from based_on b
        join pg_type t on t.oid = b.typbasetype)
      select pg_catalog.format('%I.%I', tn.nspname, t.typname)
      from based_on b
      join pg_type t on t.oid = b.oid
      join pg_namespace tn on tn.oid = t.typnamespace
      join pg_opclass oc on oc.oid = k.class
      where b.typbasetype = 0 and oc.opcintype = 'anyenum'::regtype) order by k.place),
    -- The operators of these types accept an oid or any record. The server would parse a literal without a
    -- type as an oid or a record, and refuse the text of a regclass or of a row.
    array_agg((
      select pg_catalog.format('%I.%I', tn.nspname, t.typname)
      from pg_opclass oc
      join pg_type t on t.oid = a.atttypid
      join pg_namespace tn on tn.oid = t.typnamespace
      where oc.oid = k.class and oc.opcintype in ('oid'::regtype, 'record'::regtype)
        and oc.opcintype <> a.atttypid) order by k.place),
    array_agg(pg_catalog.format('%s %s %s', a.atttypid, k.class, k.coll) order by k.place)
  from pg_index i
  cross join unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[], i.indoption::int2[])
    with ordinality k(attnum, coll, class, options, place)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  left join pg_collation co on co.oid = k.coll
  left join pg_namespace cn on cn.oid = co.collnamespace
  where k.place <= i.indnkeyatts and i.indexrelid = (
    select case am.amname when 'btree' then u.indexrelid end
    from pg_index u
    join pg_class uc on uc.oid = u.indexrelid
    join pg_am am on am.oid = uc.relam
    where u.indrelid = c.oid and u.indisunique and u.indisvalid and u.indimmediate
      and u.indpred is null and u.indexprs is null
      and not exists (
        select from unnest(u.indkey::int2[]) with ordinality uk(attnum, place)
        join pg_attribute ua on ua.attrelid = c.oid and ua.attnum = uk.attnum
        where uk.place <= u.indnkeyatts and (not ua.attnotnull or exists (
          select from pg_constraint nn
          where nn.conrelid = c.oid and nn.contype = 'n' and not nn.convalidated
            and ua.attnum = any(nn.conkey))))
    order by
      case c.relreplident
        when 'i' then u.indisreplident when 'd' then u.indisprimary else am.amname = 'btree' end desc,
      u.indisprimary desc, u.indnkeyatts, u.indexrelid
    limit 1)) k(names, operators, collations, nulls_first, column_casts, casts, identities)
cross join lateral (
  select
    array_agg(a.attname::text order by a.attnum),
    array_agg(coalesce(has_column_privilege(c.oid, a.attnum, 'select'), false) order by a.attnum),
    -- pgoutput sends generated columns from PostgreSQL 18 on.
    array_agg(
      a.attgenerated <> '' and current_setting('server_version_num')::int4 < 180000 order by a.attnum),
    array_agg(a.attgenerated = 'v' order by a.attnum),
    -- 0: never large. 1: a text or binary value. 2: another type. See SizeProbe.
    array_agg(
      case
        when a.attlen >= 0 or a.attstorage = 'p'
          or a.atttypid in ('numeric'::regtype, 'inet'::regtype, 'cidr'::regtype)
          or (a.atttypid in ('varchar'::regtype, 'bpchar'::regtype) and a.atttypmod between 0 and 100000)
          then 0
        when coalesce(nullif(t.typbasetype, 0), t.oid)
          in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype) then 1
        else 2
      end order by a.attnum)
  from pg_attribute a
  join pg_type t on t.oid = a.atttypid
  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
) a(names, readable, generated, virtual, size_probes)
