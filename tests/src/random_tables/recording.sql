-- Records every change of a schema's tables, in tables that no slot sends.
create schema recording;

-- Definitions of tables, one for each description of their schema.
create unlogged table recording.recorded_table (
    id int generated always as identity primary key,
    catalog_version int not null,
    relation oid not null,
    -- SQL that makes a JSON object of texts from the columns of one row.
    body text not null,
    -- SQL that selects the columns of a row variable.
    from_row text not null,
    document jsonb not null);
create index on recording.recorded_table (relation, id);

-- op is i, u, d, t (truncate), or r (a row of the table at the capture).
create unlogged table recording.change (
    seq bigint generated always as identity primary key,
    op text not null,
    recorded_table int not null,
    old_row jsonb,
    new_row jsonb);

-- Versions of the catalog, one for each description of a schema.
create unlogged table recording.catalog_version (
    number int generated always as identity primary key,
    schema_name text not null);

-- Base type of a domain; another type is its own base type.
create function recording.base_type(type_id oid) returns oid language plpgsql stable as $$
declare
    base oid := type_id;
begin
    while (select typtype = 'd' from pg_type where oid = base) loop
        select typbasetype into base from pg_type where oid = base;
    end loop;
    return base;
end $$;

create function recording.row_change() returns trigger language plpgsql as $$
declare
    recorded recording.recorded_table;
    old_row jsonb;
    new_row jsonb;
begin
    select * into strict recorded from recording.recorded_table
    where relation = tg_relid order by id desc limit 1;
    if tg_op <> 'INSERT' then
        execute format('select %s from (select %s) r', recorded.body, recorded.from_row)
            into old_row using old;
    end if;
    if tg_op <> 'DELETE' then
        execute format('select %s from (select %s) r', recorded.body, recorded.from_row)
            into new_row using new;
    end if;
    insert into recording.change (op, recorded_table, old_row, new_row)
    values (lower(left(tg_op, 1)), recorded.id, old_row, new_row);
    return null;
end $$;

create function recording.truncated() returns trigger language plpgsql as $$
begin
    insert into recording.change (op, recorded_table)
    select 't', id from recording.recorded_table where relation = tg_relid order by id desc limit 1;
    return null;
end $$;

-- Columns of an index in the order of the index. An index may name a column twice.
create function recording.index_columns(index_id oid) returns jsonb language sql stable as $$
    select coalesce(jsonb_agg(c.attname order by c.place), '[]')
    from (
        select a.attname, min(k.place) as place
        from pg_index i
        cross join unnest(i.indkey::int2[]) with ordinality k(attnum, place)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indexrelid = index_id and k.place <= i.indnkeyatts
        group by a.attname) c
$$;

-- How the publications send a table: the name, the operations, and whether generated columns are sent.
create function recording.publication(relation oid) returns jsonb language sql stable as $$
    select jsonb_build_object(
               'name', t.tablename,
               'relation', c.oid::int8,
               'insert', p.pubinsert, 'update', p.pubupdate,
               'delete', p.pubdelete, 'truncate', p.pubtruncate,
               'generated', coalesce(to_jsonb(p) ->> 'pubgencols', 'n') = 's')
    from pg_publication_tables t
    join pg_publication p on p.pubname = t.pubname
    join pg_namespace n on n.nspname = t.schemaname
    join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
    where c.oid = relation or c.oid in (select pg_partition_ancestors(relation))
    limit 1
$$;

create function recording.columns(relation oid) returns jsonb language sql stable as $$
    select coalesce(jsonb_agg(jsonb_build_object(
               'name', a.attname,
               'type', format_type(a.atttypid, a.atttypmod),
               -- Values of applications' types are compared as text, also if a built-in type has the same
               -- name.
               'base', case when b.typnamespace = 'pg_catalog'::regnamespace then b.typname else '' end,
               'element', case when e.typnamespace = 'pg_catalog'::regnamespace then e.typname
                               when e.oid is not null then '' end,
               'delimiter', coalesce(e.typdelim, ','),
               'late', a.atthasmissing,
               'generated', a.attgenerated) order by a.attnum), '[]')
    from pg_attribute a
    join pg_type b on b.oid = recording.base_type(a.atttypid)
    left join pg_type e on b.typsubscript = 'array_subscript_handler'::regproc
                       and e.oid = recording.base_type(b.typelem)
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
$$;

create function recording.document(relation oid) returns jsonb language sql stable as $$
    select jsonb_build_object(
        'schema', n.nspname,
        'name', c.relname,
        'relation', c.oid::int8,
        'kind', c.relkind,
        'identity', c.relreplident,
        'identity_key', coalesce((select recording.index_columns(indexrelid) from pg_index
            where indrelid = c.oid and indimmediate
              and case c.relreplident when 'd' then indisprimary when 'i' then indisreplident else false end),
            '[]'),
        'key', coalesce((select recording.index_columns(indexrelid) from pg_index
            where indrelid = c.oid and indimmediate
              and case c.relreplident when 'i' then indisreplident else indisprimary end), '[]'),
        'unique_keys', (select coalesce(jsonb_agg(recording.index_columns(i.indexrelid)), '[]')
                        from pg_index i
            where i.indrelid = c.oid and i.indisunique and i.indimmediate and i.indisvalid
              and i.indpred is null and i.indexprs is null
              and not exists (select from pg_attribute a where a.attrelid = c.oid
                              and a.attnum = any (i.indkey::int2[]) and not a.attnotnull)),
        'publication', recording.publication(c.oid),
        -- It changes with each write to the catalog's rows of the table.
        'catalog', md5(concat_ws(' ', c.xmin,
            (select string_agg(xmin::text, ',' order by attnum) from pg_attribute where attrelid = c.oid),
            (select string_agg(xmin::text, ',' order by indexrelid) from pg_index where indrelid = c.oid))),
        'columns', recording.columns(c.oid))
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation
$$;

-- Records the definitions of a schema's tables, and creates missing triggers. Call it after each DDL.
create function recording.describe(wanted text) returns void language plpgsql as $$
declare
    current_version int;
    leaf record;
begin
    insert into recording.catalog_version (schema_name) values (wanted) returning number into current_version;
    for leaf in
        select c.oid::regclass as name, c.relkind
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = wanted and c.relkind in ('r', 'p')
          and not exists (select from pg_trigger t where t.tgrelid = c.oid and t.tgname = 'zz_truncated')
    loop
        execute format('create trigger zz_truncated after truncate on %s
                        execute function recording.truncated()',
                       leaf.name);
        if leaf.relkind = 'r' then
            execute format('create trigger zz_changed after insert or update or delete on %s
                            for each row execute function recording.row_change()', leaf.name);
        end if;
    end loop;
    insert into recording.recorded_table (catalog_version, relation, body, from_row, document)
    select current_version, c.oid,
           'jsonb_build_object(' || coalesce(l.body, '') || ')', coalesce(l.from_row, ''),
           recording.document(c.oid) || jsonb_build_object('catalog_version', current_version)
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (
        select string_agg(format('%L, case when num_nulls(%s) = 0 then format(''%%s'', %s) end',
                                 a.attname, v.value, v.value), ', ' order by a.attnum) as body,
               string_agg(format('($1).%I', a.attname), ', ' order by a.attnum)
                   filter (where a.attgenerated <> 'v') as from_row
        from pg_attribute a
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        cross join lateral (
            select case a.attgenerated when 'v' then '(' || pg_get_expr(d.adbin, d.adrelid) || ')'
                   else 'r.' || quote_ident(a.attname) end as value) v
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) l
    where n.nspname = wanted and c.relkind in ('r', 'p')
    order by c.relkind = 'p' desc, c.oid;
end $$;

-- Records the present rows of a schema as changes with op r.
create function recording.capture(wanted text) returns void language plpgsql as $$
declare
    leaf record;
begin
    for leaf in
        select distinct on (s.relation) s.id, s.body, s.relation::regclass as name
        from recording.recorded_table s
        join pg_class c on c.oid = s.relation
        join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = wanted and c.relkind = 'r'
        order by s.relation, s.id desc
    loop
        execute format('insert into recording.change (op, recorded_table, new_row)
                        select ''r'', %s, %s from only %s r',
                       leaf.id, leaf.body, leaf.name);
    end loop;
end $$;
