#!/usr/bin/env python3
"""Prints the file of a table, as orders.sql is for public.orders.

    table_sql.py public.orders --key 'id bigint' --column 'customer varchar(65535)' --column 'amount decimal(12, 2)' \\
        --column 'placed timestamptz' --large body

Types are those of Redshift. --large names a text column that PostgreSQL may store apart (TOAST): an update that leaves
it unchanged does not contain it. Repeat --key, --column and --large for each column.
"""

import argparse
import re

UNAVAILABLE = "'__debezium_unavailable_value'"
# Our own mark of a value that OVERSIZE=omit left out.
OMITTED = "'__omitted_because_of_its_size'"
# Types to which a value of SUPER is cast directly.
DIRECT = ("smallint", "int2", "int", "int4", "integer", "bigint", "int8", "boolean", "bool", "varchar")

HEAD = """\
-- The table {schema}.{table} of each source. Made by table_sql.py, which makes the file of any other table:
--   {command}

-- Rows, deleted ones included (op d): a delete that was forgotten could not stop an older change that arrives
-- again. {at_of_large} the position of the change that has this value.
create table spillway.{table} (
    source_name varchar(128) not null,
{key_definitions}
    op varchar(1) not null,
    position varchar(64) not null,
    arrived timestamp not null,
{definitions}
    primary key (source_name, {keys})
);
"""

# For each large column.
DELETED_TABLE = """
-- The {large} that each deleted row had. A change of the key is a delete and a create at one place of the
-- log. That place is moved_at, the position without its index. The create may lack the {large}.
create table spillway.{table}_deleted_{large} (
    source_name varchar(128) not null,
    moved_at varchar(64) not null,
    arrived timestamp not null,
    {large} varchar(65535),
    {large}_at varchar(64)
);
"""

VIEWS = """
-- What queries read.
create or replace view public.{table} as
select
    source_name,
    {columns_of_view}
from spillway.{table}
where op <> 'd';

-- The changes of the table. Where a change does not say what a large value is, its position (…_at) is null. A
-- create without it takes it from the old key's row. A value that was omitted for its size (OVERSIZE=omit) did
-- change: it has its own mark, and the former value is not valid.
create or replace view spillway.{table}_changes as
select
    e.shard_id::varchar(128) as shard_id,
    lpad(e.sequence_number::varchar(128), 128, '0') as sequence_number,
    e.approximate_arrival_timestamp as arrived,
    e.event.source.name::varchar(128) as source_name,
    e.event.source.position::varchar(64) as position,
    e.event.op::varchar(1) as op,
    {columns_of_changes}
from spillway.events as e
where e.event.source."schema"::varchar(128) = '{schema}'
    and e.event.source."table"::varchar(128) = '{table}'
    and e.event.op::varchar(1) in ('c', 'u', 'r', 'd', 't');
"""

LARGE_OF_CHANGES = """\
case
        when json_serialize(e.event.source.omitted) like '%"{large}"%' then {omitted}
        else e.event.after.{large}::varchar(65535)
    end as {large},
    case
        when e.event.op::varchar(1) not in ('c', 'u', 'r') then null
        when json_serialize(e.event.source.omitted) like '%"{large}"%' then e.event.source.position::varchar(64)
        when coalesce(e.event.after.{large}::varchar(65535), '') <> {unavailable}
            then e.event.source.position::varchar(64)
        when e.event.op::varchar(1) = 'c' then e.event.source.position::varchar(64)
    end as {large}_at"""

BEGIN = """
-- Merges what the view has and the table has not. One transaction: it may fail, and run again, at any time.
create or replace procedure spillway.merge_{table}() as $$
begin
    -- One merge at a time. Queries do not read this table.
    lock table spillway.progress;

    -- Temporary tables have names that no other table has: the first drop of a session would find it.
    drop table if exists spillway_{table}_batch;
    create temp table spillway_{table}_batch as
    select c.*
    from spillway.{table}_changes as c
    left join spillway.progress as p on p.target = '{table}' and p.shard_id = c.shard_id
    where p.shard_id is null or c.sequence_number > p.sequence_number;

    drop table if exists spillway_{table}_read;
    create temp table spillway_{table}_read as
    select shard_id, max(sequence_number) as sequence_number from spillway_{table}_batch group by shard_id;
    delete from spillway.progress using spillway_{table}_read as r
    where spillway.progress.target = '{table}' and spillway.progress.shard_id = r.shard_id;
    insert into spillway.progress (target, shard_id, sequence_number)
    select '{table}', shard_id, sequence_number from spillway_{table}_read;

    -- Truncates and repairs.
    insert into spillway.floors (target, source_name, position)
    select '{table}', source_name, max(position) from spillway_{table}_batch where op = 't'
    group by source_name;
    delete from spillway_{table}_batch using spillway.floors as f
    where f.target = '{table}' and f.source_name = spillway_{table}_batch.source_name
        and spillway_{table}_batch.position < f.position;
    delete from spillway.{table} using spillway.floors as f
    where f.target = '{table}' and f.source_name = spillway.{table}.source_name
        and spillway.{table}.position < f.position;
    delete from spillway_{table}_batch where op = 't' or {without_key};

    -- The changes, and the rows that they change.
    drop table if exists spillway_{table}_known;
    create temp table spillway_{table}_known as
    select {all_columns}
    from spillway_{table}_batch
    union all
    select {all_of_o}
    from spillway.{table} as o
    join (select distinct source_name, {keys} from spillway_{table}_batch) as b
        on {same_b_o};

    -- The newest change of each row.
    drop table if exists spillway_{table}_newest;
    create temp table spillway_{table}_newest as
    select k.* from spillway_{table}_known as k
    qualify row_number() over (partition by k.source_name, {keys_of_k} order by k.position desc) = 1;
"""

# For each large column.
NEWEST_VALUE = """
    -- The newest {large} that is known of each row. A change that is sent twice may have its {large} only
    -- once. Then that one counts.
    drop table if exists spillway_{table}_newest_{large};
    create temp table spillway_{table}_newest_{large} as
    select k.source_name, {keys_of_k}, k.{large}, k.{large}_at from spillway_{table}_known as k
    where k.{large}_at is not null
    qualify row_number() over (
        partition by k.source_name, {keys_of_k}
        order by k.{large}_at desc, case when k.{large} = {unavailable} then 1 else 0 end
    ) = 1;

    -- The {large} that each deleted row had.
    insert into spillway.{table}_deleted_{large} (source_name, moved_at, arrived, {large}, {large}_at)
    select d.source_name, left(d.position, 33), d.arrived, k.{large}, k.{large}_at
    from spillway_{table}_batch as d
    join spillway_{table}_known as k
        on {same_k_d} and k.{large}_at < d.position
    left join spillway.{table}_deleted_{large} as o
        on o.source_name = d.source_name and o.moved_at = left(d.position, 33)
    where d.op = 'd' and o.moved_at is null
    qualify row_number() over (
        partition by d.source_name, d.position
        order by k.{large}_at desc, case when k.{large} = {unavailable} then 1 else 0 end
    ) = 1;
"""

MERGE = """
    drop table if exists spillway_{table}_merge;
    create temp table spillway_{table}_merge as
    select
        {columns_of_merge}
    from spillway_{table}_newest as n{joins};

    merge into spillway.{table} using spillway_{table}_merge as m
        on {same_m}
    when matched then update set
        {updates}
    when not matched then insert
        ({all_columns})
    values
        ({all_of_m});
"""

# For each large column.
MOVED = """
    -- A changed key: the {large} is that of the old key's row, which may arrive later, from another shard.
    -- A row whose key changed n times since the last merge has its {large} after n merges.
    update spillway.{table}_deleted_{large} set {large} = d.{large}
    from spillway.{table}_deleted_{large} as d
    where spillway.{table}_deleted_{large}.source_name = d.source_name
        and left(spillway.{table}_deleted_{large}.{large}_at, 33) = d.moved_at
        and spillway.{table}_deleted_{large}.{large} = {unavailable}
        and coalesce(d.{large}, '') <> {unavailable};
    update spillway.{table} set {large} = d.{large}
    from spillway.{table}_deleted_{large} as d
    where spillway.{table}.source_name = d.source_name and left(spillway.{table}.{large}_at, 33) = d.moved_at
        and spillway.{table}.{large} = {unavailable}
        and coalesce(d.{large}, '') <> {unavailable};
"""

END = """
    -- Older than every record of the stream: no change of these rows can arrive again.
{deletes}
    delete from spillway.{table} where op = 'd' and arrived < dateadd(day, -8, getdate());
end;
$$ language plpgsql;"""


def cast(path, kind):
    """A value of the event as a type of Redshift. docs/consume.md has the forms.

    Most types are cast by way of text: a cast of SUPER that does not fit gives null, and no error.
    """
    name, text = kind.lower().partition("(")[0].strip(), f"{path}::varchar(65535)"
    if name in DIRECT:
        return f"{path}::{kind}"
    forms = {
        "super": path,
        "date": f"left({text}, 10)::date",
        "time": f"rtrim({text}, 'Z')::time",
        "timestamp": f"{text}::timestamptz at time zone 'UTC'",
        "varbyte": f"to_varbyte({text}, 'base64')",
    }
    aliases = {"varbinary": "varbyte", "binary varying": "varbyte"}
    name = aliases.get(name, name.removesuffix(" without time zone"))
    return forms.get(name, f"{text}::{kind}")


def key_of_change(name, kind):
    before, after = (cast(f"e.event.{image}.{name}", kind) for image in ("before", "after"))
    return (
        f"case\n        when e.event.op::varchar(1) = 'd' then {before}\n"
        f"        else {after}\n    end as {name}"
    )


def of(alias, names):
    return ", ".join(f"{alias}.{name}" for name in names)


def same(left, right, names):
    return " and ".join(f"{left}.{name} = {right}.{name}" for name in names)


def large_words(table, identity, large):
    """What the statements say of the large columns."""
    joins = deletes = ""
    for number, name in enumerate(large):
        joins += f"\n    left join spillway_{table}_newest_{name} as l{number} on {same(f'l{number}', 'n', identity)}"
        deletes += f"    delete from spillway.{table}_deleted_{name} where arrived < dateadd(day, -8, getdate());\n"
    return {
        "joins": joins,
        "deletes": deletes.rstrip("\n"),
        "at_of_large": " and ".join(f"{name}_at" for name in large) + (" are each" if len(large) > 1 else " is"),
    }


def words_of(schema, table, keys, columns, large):
    key_names, column_names = [name for name, _ in keys], [name for name, _ in columns]
    identity = ["source_name", *key_names]
    plain = [*identity, "op", "position", "arrived", *column_names]
    pairs = [(name, f"{name}_at") for name in large]
    everything = plain + [name for pair in pairs for name in pair]
    merged = [of("n", plain)] + [of(f"l{number}", pair) for number, pair in enumerate(pairs)]
    definitions = [f"{name} {kind}" for name, kind in columns]
    definitions += [f"{name} varchar(65535),\n    {at} varchar(64)" for name, at in pairs]
    changes = [key_of_change(*key) for key in keys]
    changes += [f"{cast(f'e.event.after.{name}', kind)} as {name}" for name, kind in columns]
    changes += [LARGE_OF_CHANGES.format(large=name, unavailable=UNAVAILABLE, omitted=OMITTED) for name in large]
    options = [f"--key '{name} {kind}'" for name, kind in keys]
    options += [f"--column '{name} {kind}'" for name, kind in columns] + [f"--large {name}" for name in large]
    return large_words(table, identity, large) | {
        "schema": schema,
        "table": table,
        "unavailable": UNAVAILABLE,
        "command": "\n--     ".join([f"table_sql.py {schema}.{table}", *options]),
        "key_definitions": "\n".join(f"    {name} {kind} not null," for name, kind in keys),
        "definitions": "\n".join(f"    {one}," for one in definitions),
        "keys": ", ".join(key_names),
        "keys_of_k": of("k", key_names),
        "columns_of_view": ",\n    ".join([*key_names, *column_names, *large]),
        "columns_of_changes": ",\n    ".join(changes),
        "without_key": " or ".join(f"{name} is null" for name in key_names),
        "all_columns": ", ".join(everything),
        "all_of_o": of("o", everything),
        "all_of_m": of("m", everything),
        "same_b_o": same("b", "o", identity),
        "same_k_d": same("k", "d", identity),
        "same_m": same(f"spillway.{table}", "m", identity),
        "columns_of_merge": ",\n        ".join(merged),
        "updates": ",\n        ".join(f"{name} = m.{name}" for name in everything if name not in identity),
    }


def statements(name, keys, columns, large):
    """The file of a table. keys and columns are (name, type), large are names."""
    words = words_of(*name.split("."), keys, columns, large)
    head = HEAD if large else re.sub("-- {at_of_large}.*\n", "", HEAD)
    text = ""
    for part in (head, DELETED_TABLE, VIEWS, BEGIN, NEWEST_VALUE, MERGE, MOVED, END):
        for one in large if part in (DELETED_TABLE, NEWEST_VALUE, MOVED) else [""]:
            text += part.format(**words, large=one)
    return re.sub("\n\n\n+", "\n\n", text) + "\n"


def column(text):
    name, kind = text.split(" ", 1)
    return name, kind.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="schema and name in the database")
    parser.add_argument("--key", action="append", type=column, required=True, metavar="'NAME TYPE'")
    parser.add_argument("--column", action="append", type=column, default=[], metavar="'NAME TYPE'")
    parser.add_argument("--large", action="append", default=[], metavar="NAME")
    asked = parser.parse_args()
    print(statements(asked.table, asked.key, asked.column, asked.large), end="")


if __name__ == "__main__":
    main()
