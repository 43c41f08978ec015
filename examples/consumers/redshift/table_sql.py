#!/usr/bin/env python3
"""Prints the file of a table, as orders.sql is for public.orders.

    table_sql.py public.orders --key 'id bigint' --column 'customer varchar(65535)' --column 'amount decimal(12, 2)' \\
        --column 'placed timestamptz' --large body

Names are those of the database, without quotes: also Shop.Order.Line, of the schema Shop. Only a name with spaces needs
double quotes. Types are those of Redshift. The length of its varchar(n) and char(n) is in bytes: for a varchar(20) of
PostgreSQL, write varchar(80). A text that exceeds its column makes the merge fail. --large names a text
column that PostgreSQL may store apart (TOAST): an update that leaves it unchanged does not contain it. --nested names
such a column that is a list or an object in the event: an array, for instance. It becomes JSON. Repeat --key, --column,
--large and --nested for each column.
"""

import argparse
import re

UNAVAILABLE = "'__debezium_unavailable_value'"
# Our own mark of a value that OVERSIZE=omit left out.
OMITTED = "'__omitted_because_of_its_size'"
# https://docs.aws.amazon.com/redshift/latest/dg/r_pg_keywords.html
RESERVED = set(
    """
    aes128 aes256 all allowoverwrite analyse analyze and any array as asc authorization az64 backup between binary
    blanksasnull both bytedict bzip2 case cast check collate column constraint create credentials cross current_date
    current_time current_timestamp current_user current_user_id default deferrable deflate defrag delta delta32k desc
    disable distinct do else emptyasnull enable encode encrypt encryption end except explicit false for foreign freeze
    from full globaldict256 globaldict64k grant group gzip having identity ignore ilike in initially inner intersect
    interval into is isnull join leading left like limit localtime localtimestamp lun luns lzo lzop minus mostly16
    mostly32 mostly8 natural new not notnull null nulls off offline offset oid old on only open or order outer overlaps
    parallel partition percent permissions pivot placing primary raw readratio recover references rejectlog resort
    respect restore right select session_user similar snapshot some sysdate system table tag tdes text255 text32k then
    timestamp to top trailing true truncatecolumns union unique unnest unpivot user using verbose wallet when where
    with without
    """.split()
)
# Objects that setup.sql creates in the schema spillway.
SHARED = ("events", "progress", "floors", "control_messages")
# Columns that the file defines beside those of the table, and one that is only beside a large column.
OWN = ("source_name", "op", "position", "arrived", "shard_id", "sequence_number")
OWN_BESIDE_LARGE = "moved_at"
# Types to which a value of SUPER is cast directly.
DIRECT = ("smallint", "int2", "int", "int4", "integer", "bigint", "int8", "boolean", "bool")
TEXTS = ("varchar", "character varying", "nvarchar", "char", "character", "nchar", "bpchar", "text")

HEAD = """\
-- The table {name} of each source. Made by table_sql.py, which makes the file of any other table:
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

# For the view, if there are large columns.
UNKNOWN = " A large value that no change had is not null: its mark says that it is not known."

# For each large column.
DELETED_TABLE = """
-- The {large} that each deleted row had. A change of the key is a delete and a create at one place of the
-- log. That place is moved_at, the position without its index. The create may lack the {large}.
create table spillway.{helper}_deleted_{large_helper} (
    source_name varchar(128) not null,
    moved_at varchar(64) not null,
    arrived timestamp not null,
    {column} varchar(65535),
    {column_at} varchar(64)
);
"""

VIEWS = """
-- View for queries.{unknown}
create or replace view public.{table} as
select
    source_name,
    {columns_of_view}
from spillway.{table}
where op <> 'd';

-- The changes of the table. If a change does not contain a large value, its position (…_at) is null. A
-- create without it takes it from the old key's row. A value that was omitted for its size (OVERSIZE=omit)
-- did change: it has its own mark, and the former value is not valid.
create or replace view spillway.{helper}_changes as
select
    e.shard_id::varchar(128) as shard_id,
    lpad(e.sequence_number::varchar(128), 128, '0') as sequence_number,
    e.approximate_arrival_timestamp as arrived,
    e.event.source.name::varchar(128) as source_name,
    e.event.source.position::varchar(64) as position,
    e.event.op::varchar(1) as op,
    {columns_of_changes}
from spillway.events as e
where e.event.source."schema"::varchar(128) = {schema_text}
    and e.event.source."table"::varchar(128) = {table_text}
    and e.event.op::varchar(1) in ('c', 'u', 'r', 'd', 't');
"""

LARGE_OF_CHANGES = """\
case
        when strpos(json_serialize(e.event.source.omitted), {name_in_list}) > 0 then {omitted}
        {when_nested}else e.event.after.{column}::varchar(65535)
    end as {column},
    case
        when e.event.op::varchar(1) not in ('c', 'u', 'r') then null
        when strpos(json_serialize(e.event.source.omitted), {name_in_list}) > 0
            then e.event.source.position::varchar(64)
        when coalesce(e.event.after.{column}::varchar(65535), '') <> {unavailable}
            then e.event.source.position::varchar(64)
        when e.event.op::varchar(1) = 'c' then e.event.source.position::varchar(64)
    end as {column_at}"""

BEGIN = """
-- Merges changes that the view has and the table lacks. One transaction: it may fail, and run again, at any
-- time.
create or replace procedure spillway.merge_{helper}() as $$
begin
    -- One merge at a time. Queries do not read this table.
    lock table spillway.progress;

    -- Temporary tables have names that no other table has: the first drop of a session would find it.
    drop table if exists spillway_{helper}_batch;
    create temp table spillway_{helper}_batch as
    select c.*
    from spillway.{helper}_changes as c
    left join spillway.progress as p on p.target = {table_text} and p.shard_id = c.shard_id
    where p.shard_id is null or c.sequence_number > p.sequence_number;

    drop table if exists spillway_{helper}_read;
    create temp table spillway_{helper}_read as
    select shard_id, max(sequence_number) as sequence_number from spillway_{helper}_batch group by shard_id;
    delete from spillway.progress using spillway_{helper}_read as r
    where spillway.progress.target = {table_text} and spillway.progress.shard_id = r.shard_id;
    insert into spillway.progress (target, shard_id, sequence_number)
    select {table_text}, shard_id, sequence_number from spillway_{helper}_read;

    -- Truncates and repairs.
    insert into spillway.floors (target, source_name, position)
    select {table_text}, source_name, max(position) from spillway_{helper}_batch where op = 't'
    group by source_name;
    delete from spillway_{helper}_batch using spillway.floors as f
    where f.target = {table_text} and f.source_name = spillway_{helper}_batch.source_name
        and spillway_{helper}_batch.position < f.position;
    delete from spillway.{table} using spillway.floors as f
    where f.target = {table_text} and f.source_name = spillway.{table}.source_name
        and spillway.{table}.position < f.position;
    delete from spillway_{helper}_batch where op = 't' or {without_key};

    -- The changes, and the rows that they change.
    drop table if exists spillway_{helper}_known;
    create temp table spillway_{helper}_known as
    select {all_columns}
    from spillway_{helper}_batch
    union all
    select {all_of_o}
    from spillway.{table} as o
    join (select distinct source_name, {keys} from spillway_{helper}_batch) as b
        on {same_b_o};

    -- The newest change of each row.
    drop table if exists spillway_{helper}_newest;
    create temp table spillway_{helper}_newest as
    select k.* from spillway_{helper}_known as k
    qualify row_number() over (partition by k.source_name, {keys_of_k} order by k.position desc) = 1;
"""

# For each large column.
NEWEST_VALUE = """
    -- The newest {large} that is known of each row. A change that is sent twice may have its {large} only
    -- once. Then that one counts.
    drop table if exists spillway_{helper}_newest_{large_helper};
    create temp table spillway_{helper}_newest_{large_helper} as
    select k.source_name, {keys_of_k}, k.{column}, k.{column_at} from spillway_{helper}_known as k
    where k.{column_at} is not null
    qualify row_number() over (
        partition by k.source_name, {keys_of_k}
        order by k.{column_at} desc, case when k.{column} = {unavailable} then 1 else 0 end
    ) = 1;

    -- The {large} that each deleted row had.
    insert into spillway.{helper}_deleted_{large_helper} (source_name, moved_at, arrived, {column}, {column_at})
    select d.source_name, left(d.position, 33), d.arrived, k.{column}, k.{column_at}
    from spillway_{helper}_batch as d
    join spillway_{helper}_known as k
        on {same_k_d} and k.{column_at} < d.position
    left join spillway.{helper}_deleted_{large_helper} as o
        on o.source_name = d.source_name and o.moved_at = left(d.position, 33)
    where d.op = 'd' and o.moved_at is null
    qualify row_number() over (
        partition by d.source_name, d.position
        order by k.{column_at} desc, case when k.{column} = {unavailable} then 1 else 0 end
    ) = 1;
"""

MERGE = """
    drop table if exists spillway_{helper}_merge;
    create temp table spillway_{helper}_merge as
    select
        {columns_of_merge}
    from spillway_{helper}_newest as n{joins};

    merge into spillway.{table} using spillway_{helper}_merge as m
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
    update spillway.{helper}_deleted_{large_helper} set {column} = d.{column}
    from spillway.{helper}_deleted_{large_helper} as d
    where spillway.{helper}_deleted_{large_helper}.source_name = d.source_name
        and left(spillway.{helper}_deleted_{large_helper}.{column_at}, 33) = d.moved_at
        and spillway.{helper}_deleted_{large_helper}.{column} = {unavailable}
        and coalesce(d.{column}, '') <> {unavailable};
    update spillway.{table} set {column} = d.{column}
    from spillway.{helper}_deleted_{large_helper} as d
    where spillway.{table}.source_name = d.source_name and left(spillway.{table}.{column_at}, 33) = d.moved_at
        and spillway.{table}.{column} = {unavailable}
        and coalesce(d.{column}, '') <> {unavailable};
"""

NESTED = """\
when is_array({path}) or is_object({path})
            then json_serialize({path})
        """

END = """
    -- Older than every record of the stream: no change of these rows can arrive again.
{deletes}
    delete from spillway.{table} where op = 'd' and arrived < dateadd(day, -8, getdate());
end;
$$ language plpgsql;"""


def cast(path, kind):
    """A value of the event as a type of Redshift. docs/consume.md has the forms.

    Most types are cast by way of text: a cast of SUPER that does not fit gives null, and no error. A cast of a text to
    a shorter one cuts it, so the view has the whole text, and the table refuses it.
    """
    name, text = kind.lower().partition("(")[0].strip(), f"{path}::varchar(65535)"
    if name in DIRECT:
        return f"{path}::{kind}"
    if name in TEXTS:
        return text
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


def identifier(name):
    """The name of a table or of a column as SQL has it."""
    if re.fullmatch("[a-z_][a-z0-9_]*", name) and name not in RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def helper(name):
    """The part of the name of an object that is made for this table or column."""
    return re.sub("[^a-z0-9_]", "_", name.lower())


def literal(text):
    return "'" + text.replace("'", "''") + "'"


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


def words_of_large(name, is_nested):
    """The parts of the statements for a large column."""
    return {
        "when_nested": NESTED.format(path=f"e.event.after.{identifier(name)}") if is_nested else "",
        "large": name,
        "large_helper": helper(name),
        "column": identifier(name),
        "column_at": identifier(f"{name}_at"),
        "name_in_list": literal(f'"{name}"'),
    }


def words_of_all_large(table, identity, large):
    """The parts of the statements for all large columns together."""
    joins = deletes = ""
    for number, name in enumerate(map(helper, large)):
        joins += f"\n    left join spillway_{table}_newest_{name} as l{number} on {same(f'l{number}', 'n', identity)}"
        deletes += f"    delete from spillway.{table}_deleted_{name} where arrived < dateadd(day, -8, getdate());\n"
    return {
        "joins": joins,
        "deletes": deletes.rstrip("\n"),
        "at_of_large": " and ".join(f"{name}_at" for name in large) + (" are each" if len(large) > 1 else " is"),
    }


def command(name, keys, columns, large, nested):
    """The call of this script, as a comment of two columns."""
    options = [f"--key '{quoted(name)} {kind}'" for name, kind in keys]
    options += [f"--column '{quoted(name)} {kind}'" for name, kind in columns]
    for option, names in (("--large", large), ("--nested", nested)):
        options += [f"{option} {name}" if quoted(name) == name else f"{option} '{quoted(name)}'" for name in names]
    return "\n--     ".join([f"table_sql.py {name}", *options])


def known(name, at):
    return f"case when {at} is null then {UNAVAILABLE} else {name} end as {name}"


def words_of(schema, table, keys, columns, all_large):
    keys, columns = ([(identifier(name), kind) for name, kind in some] for some in (keys, columns))
    key_names, column_names = [name for name, _ in keys], [name for name, _ in columns]
    identity = ["source_name", *key_names]
    plain = [*identity, "op", "position", "arrived", *column_names]
    pairs = [(words["column"], words["column_at"]) for words in all_large]
    everything = plain + [name for pair in pairs for name in pair]
    merged = [of("n", plain)] + [of(f"l{number}", pair) for number, pair in enumerate(pairs)]
    definitions = [f"{name} {kind}" for name, kind in columns]
    definitions += [f"{name} varchar(65535),\n    {at} varchar(64)" for name, at in pairs]
    changes = [key_of_change(*key) for key in keys]
    changes += [f"{cast(f'e.event.after.{name}', kind)} as {name}" for name, kind in columns]
    changes += [LARGE_OF_CHANGES.format(unavailable=UNAVAILABLE, omitted=OMITTED, **words) for words in all_large]
    return words_of_all_large(helper(table), identity, [words["large"] for words in all_large]) | {
        "schema_text": literal(schema),
        "table_text": literal(table),
        "table": identifier(table),
        "helper": helper(table),
        "unavailable": UNAVAILABLE,
        "unknown": UNKNOWN if all_large else "",
        "key_definitions": "\n".join(f"    {name} {kind} not null," for name, kind in keys),
        "definitions": "\n".join(f"    {one}," for one in definitions),
        "keys": ", ".join(key_names),
        "keys_of_k": of("k", key_names),
        "columns_of_view": ",\n    ".join([*key_names, *column_names, *(known(*pair) for pair in pairs)]),
        "columns_of_changes": ",\n    ".join(changes),
        "without_key": " or ".join(f"{name} is null" for name in key_names),
        "all_columns": ", ".join(everything),
        "all_of_o": of("o", everything),
        "all_of_m": of("m", everything),
        "same_b_o": same("b", "o", identity),
        "same_k_d": same("k", "d", identity),
        "same_m": same(f"spillway.{identifier(table)}", "m", identity),
        "columns_of_merge": ",\n        ".join(merged),
        "updates": ",\n        ".join(f"{name} = m.{name}" for name in everything if name not in identity),
    }


def statements(name, keys, columns, large, nested):
    """The file of a table. keys and columns are (name, type), large and nested are names."""
    all_large = [words_of_large(name, False) for name in large] + [words_of_large(name, True) for name in nested]
    words = words_of(*name.split(".", 1), keys, columns, all_large)
    words |= {"name": name, "command": command(name, keys, columns, large, nested)}
    head = HEAD if all_large else re.sub("-- {at_of_large}.*\n", "", HEAD)
    text = ""
    for part in (head, DELETED_TABLE, VIEWS, BEGIN, NEWEST_VALUE, MERGE, MOVED, END):
        if part in (DELETED_TABLE, NEWEST_VALUE, MOVED):
            text += "".join(part.format(**words, **one) for one in all_large)
        else:
            text += part.format(**words)
    return re.sub("\n\n\n+", "\n\n", text) + "\n"


def refusal(name, columns, large):
    """Why the file of a table would fail, and what to do; empty if it would not."""
    schema, table = name.split(".", 1)
    if table in SHARED:
        return (
            f"spillway.{table} exists, by setup.sql. Make the file of {schema}.{table}_rows. In its view "
            f"spillway.{helper(table)}_rows_changes, replace '{table}_rows' by '{table}'"
        )
    own = {*OWN, *(f"{one}_at" for one in large)}
    own_of_large = [one for one in large if OWN_BESIDE_LARGE in (one, f"{one}_at")]
    helpers = [helper(one) for one in large]
    for one in (names := [*columns, *large]):
        if names.count(one) > 1:
            return f"{one} is named twice"
        if one in own or one in own_of_large or (one in large and helpers.count(helper(one)) > 1):
            return (
                f"{one} has the name of another column or object of the file. Name it {one}_of_row here. In the file, "
                f"replace {one}_of_row by {one} after e.event.before., after e.event.after. and in strpos"
            )
    return ""


def quoted(name):
    return f'"{name}"' if " " in name else name


def unquoted(name):
    return name[1:-1] if name.startswith('"') and name.endswith('"') else name


def table(text):
    """Schema and name, which may have dots."""
    schema, name = text.split(".", 1)
    return f"{unquoted(schema)}.{unquoted(name)}"


def column(text):
    # An error if there is no type.
    (name, kind), = re.findall(r'^("[^"]+"|\S+)\s+(\S.*)$', text)
    return unquoted(name), kind.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=table, help="schema and name in the database")
    parser.add_argument("--key", action="append", type=column, required=True, metavar="'NAME TYPE'")
    parser.add_argument("--column", action="append", type=column, default=[], metavar="'NAME TYPE'")
    parser.add_argument("--large", action="append", type=unquoted, default=[], metavar="NAME")
    parser.add_argument("--nested", action="append", type=unquoted, default=[], metavar="NAME")
    asked = parser.parse_args()
    columns = [name for name, _ in asked.key + asked.column]
    if reason := refusal(asked.table, columns, asked.large + asked.nested):
        parser.error(reason)
    print(statements(asked.table, asked.key, asked.column, asked.large, asked.nested), end="")


if __name__ == "__main__":
    main()
