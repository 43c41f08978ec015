//! Comparison of rebuilt tables with PostgreSQL, column by column.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Client;

use crate::consumer::column_value::ColumnValue;
use crate::consumer::event::{Envelope, Row};
use crate::consumer::rebuild::{RebuiltTable, RebuiltTables};
use crate::postgres::query;
use crate::postgres::sql_text::VALUE_SETTINGS;

/// Result of a comparison.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Name of the table, as it was passed.
    pub table: String,
    /// Number of compared rows.
    pub rows: usize,
    /// The first twenty differences.
    pub differences: Vec<String>,
}

impl Comparison {
    /// # Panics
    /// There are differences.
    pub fn assert_equal(&self) {
        assert!(
            self.differences.is_empty(),
            "{} differs:\n{}",
            self.table,
            self.differences.join("\n")
        );
    }
}

/// Rows of a table to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparedRows {
    /// All rows: the table was empty when the slot was created.
    All,
    /// Rows whose keys the stream has. Other rows have not changed.
    Changed,
}

struct ComparedColumn {
    name: String,
    /// SQL expression that returns the value's text in an event.
    expression: String,
    array: bool,
    float: bool,
    generated: bool,
    key: bool,
}

/// Values of a row in the order of the columns. `None` is a column that an event may omit.
type ColumnValues = Vec<Option<ColumnValue>>;

/// Compares a table (its name in SQL) with the rebuilt one.
///
/// Drain before, and write nothing meanwhile: the comparison has no common snapshot.
pub async fn compare(
    client: &Client,
    table: &str,
    rebuilt: &RebuiltTables,
    which: ComparedRows,
) -> Comparison {
    let (name, columns) = columns(client, table, rebuilt.envelope).await;
    let empty = RebuiltTable::default();
    let rebuilt = rebuilt.tables.get(&name).unwrap_or(&empty);
    let keyed = columns.iter().any(|column| column.key);
    let mut differences = Vec::new();

    let ours: Vec<ColumnValues> = match keyed {
        true => rebuilt
            .keyed
            .values()
            .filter(|kept| kept.alive)
            .map(|kept| &kept.row)
            .collect(),
        false => rebuilt.keyless.values().collect::<Vec<&Row>>(),
    }
    .into_iter()
    .map(|row| from_event(row, &columns, &mut differences))
    .collect();
    if keyed && !rebuilt.keyless.is_empty() {
        differences.push(format!(
            "{} events without a key, in a table with a key",
            rebuilt.keyless.len()
        ));
    }
    if !keyed && (rebuilt.unmatched > 0 || !rebuilt.keyed.is_empty()) {
        let (unmatched, keyed) = (rebuilt.unmatched, rebuilt.keyed.len());
        differences.push(format!(
            "a table without a key has {unmatched} unmatched rows and {keyed} with a key"
        ));
    }
    let expected_rows = (keyed && which == ComparedRows::Changed).then(|| {
        rebuilt
            .keyed
            .values()
            .map(|kept| from_event(&kept.row, &columns, &mut Vec::new()))
            .collect()
    });
    let theirs = select(client, table, &columns, expected_rows).await;
    let rows = theirs.len();
    match keyed {
        true => by_key(ours, theirs, &columns, &mut differences),
        false => as_multiset(ours, theirs, &columns, &mut differences),
    }
    differences.truncate(20);
    Comparison {
        table: table.to_owned(),
        rows,
        differences,
    }
}

fn from_event(row: &Row, columns: &[ComparedColumn], differences: &mut Vec<String>) -> ColumnValues {
    if let Some(extra) = row
        .keys()
        .find(|name| !columns.iter().any(|column| column.name == **name))
    {
        differences.push(format!("an event has the column {extra}, and the table does not"));
    }
    let value = |column: &ComparedColumn| match row.get(&column.name) {
        Some(value) => Some(ColumnValue::of(value, column.float)),
        // Not every plugin sends generated columns. Any other missing column was added later, and is null.
        None => (!column.generated).then_some(ColumnValue::Null),
    };
    columns.iter().map(value).collect()
}

/// Number of rows that a scan fetches at a time.
const FETCH_ROWS: usize = 10_000;

/// Calls `each` with every row of a table: its columns, in the text form of this envelope.
///
/// It fetches few rows at a time, so the table may be larger than memory.
pub(crate) async fn scan(
    client: &Client,
    table: &str,
    envelope: Envelope,
    mut each: impl FnMut(&[(&str, ColumnValue)]),
) {
    let (_, columns) = columns(client, table, envelope).await;
    let expressions: Vec<&str> = columns.iter().map(|column| column.expression.as_str()).collect();
    let declare = format!(
        "{VALUE_SETTINGS}; begin;
         declare scanned no scroll cursor for select array[{}]::text[] from {table} as t",
        expressions.join(", ")
    );
    query::execute(client, &declare).await;
    let fetch = format!("fetch {FETCH_ROWS} from scanned");
    loop {
        let rows = query::rows(client, &fetch, &[]).await;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let texts: Vec<Option<String>> = row.get(0);
            let values = columns.iter().zip(&texts).map(|(column, text)| {
                let value = ColumnValue::of_text(text.as_deref(), column.array, column.float);
                (column.name.as_str(), value)
            });
            each(&values.collect::<Vec<_>>());
        }
    }
    query::execute(client, "commit").await;
}

async fn select(
    client: &Client,
    table: &str,
    columns: &[ComparedColumn],
    expected_rows: Option<Vec<ColumnValues>>,
) -> Vec<ColumnValues> {
    let expressions: Vec<&str> = columns.iter().map(|column| column.expression.as_str()).collect();
    let mut sql = format!(
        "select array[{}]::text[] from {table} as t",
        expressions.join(", ")
    );
    let keys: Vec<usize> = (0..columns.len()).filter(|index| columns[*index].key).collect();
    let mut lists: Vec<Vec<Option<String>>> = Vec::new();
    if let Some(expected_rows) = expected_rows {
        let text = |values: &ColumnValues, index: usize| match &values[index] {
            Some(ColumnValue::Text(text)) => Some(text.clone()),
            _ => None,
        };
        lists = keys
            .iter()
            .map(|index| expected_rows.iter().map(|values| text(values, *index)).collect())
            .collect();
        let names: Vec<String> = (0..keys.len()).map(|at| format!("k{at}")).collect();
        let arrays: Vec<String> = (1..=keys.len()).map(|at| format!("${at}::text[]")).collect();
        let equal: Vec<String> = keys
            .iter()
            .zip(&names)
            .map(|(index, name)| format!("{} = w.{name}", columns[*index].expression))
            .collect();
        sql.push_str(&format!(
            " join (select distinct * from unnest({})) as w({}) on {}",
            arrays.join(", "),
            names.join(", "),
            equal.join(" and ")
        ));
    }
    let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = lists
        .iter()
        .map(|list| list as &(dyn tokio_postgres::types::ToSql + Sync))
        .collect();
    query::execute(client, VALUE_SETTINGS).await;
    let rows = query::rows(client, &sql, &parameters).await;
    let values = |texts: Vec<Option<String>>| -> ColumnValues {
        let texts = texts.iter().zip(columns);
        texts
            .map(|(text, column)| Some(ColumnValue::of_text(text.as_deref(), column.array, column.float)))
            .collect()
    };
    rows.into_iter().map(|row| values(row.get(0))).collect()
}

fn by_key(
    ours: Vec<ColumnValues>,
    theirs: Vec<ColumnValues>,
    columns: &[ComparedColumn],
    differences: &mut Vec<String>,
) {
    let key = |values: &ColumnValues| -> Vec<Option<ColumnValue>> {
        columns
            .iter()
            .zip(values)
            .filter(|(column, _)| column.key)
            .map(|(_, value)| value.clone())
            .collect()
    };
    let mut by_key: HashMap<Vec<Option<ColumnValue>>, ColumnValues> = HashMap::new();
    for values in ours {
        let key = key(&values);
        if by_key.insert(key.clone(), values).is_some() {
            differences.push(format!("two rebuilt rows with the key {key:?}"));
        }
    }
    for values in theirs {
        let key = key(&values);
        match by_key.remove(&key) {
            None => differences.push(format!(
                "the stream does not have the row {}",
                show(&values, columns)
            )),
            Some(ours) => {
                for ((column, ours), theirs) in columns.iter().zip(&ours).zip(&values) {
                    if ours.is_some() && ours != theirs {
                        let (name, key) = (&column.name, show(&key_only(&values, columns), columns));
                        differences.push(format!(
                            "{key} {name}: the stream has {ours:?}, PostgreSQL {theirs:?}"
                        ));
                    }
                }
            }
        }
    }
    for values in by_key.values() {
        differences.push(format!(
            "PostgreSQL does not have the row {}",
            show(values, columns)
        ));
    }
}

fn as_multiset(
    ours: Vec<ColumnValues>,
    theirs: Vec<ColumnValues>,
    columns: &[ComparedColumn],
    differences: &mut Vec<String>,
) {
    let mut counts: BTreeMap<ColumnValues, i64> = BTreeMap::new();
    // Columns that events omit cannot be compared.
    let blind: Vec<bool> = (0..columns.len())
        .map(|at| ours.iter().any(|values| values[at].is_none()))
        .collect();
    for values in ours {
        *counts.entry(values).or_default() += 1;
    }
    for values in theirs {
        let values = values
            .into_iter()
            .zip(&blind)
            .map(|(value, blind)| value.filter(|_| !blind))
            .collect();
        *counts.entry(values).or_default() -= 1;
    }
    for (values, count) in counts.iter().filter(|(_, count)| **count != 0) {
        let side = if *count > 0 {
            "only in the stream"
        } else {
            "only in PostgreSQL"
        };
        differences.push(format!(
            "{side}, {} times: {}",
            count.abs(),
            show(values, columns)
        ));
    }
}

fn key_only(values: &ColumnValues, columns: &[ComparedColumn]) -> ColumnValues {
    values
        .iter()
        .zip(columns)
        .map(|(value, column)| value.clone().filter(|_| column.key))
        .collect()
}

fn show(values: &ColumnValues, columns: &[ComparedColumn]) -> String {
    let values = columns.iter().zip(values);
    let shown = values.filter_map(|(column, value)| Some(format!("{}={:?}", column.name, value.as_ref()?)));
    shown.collect::<Vec<String>>().join(" ")
}

/// Query for the columns of a table.
///
/// It returns each column with its type, and says whether the key contains the column. The type of a domain
/// is its base type. An array also has the type of its elements.
const COLUMNS: &str = "
with recursive
  named as (
    select c.oid, n.nspname || '.' || c.relname as table_name, c.relreplident
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $1::text::regclass),
  key as (
    select unnest(i.indkey) as attnum from pg_index i join named on i.indrelid = named.oid
    where case when relreplident = 'i' then i.indisreplident else i.indisprimary end),
  base as (
    select a.attnum, a.attname::text as name, a.attgenerated <> '' as generated, a.atttypid as type,
           a.atttypmod as modifier
    from pg_attribute a join named on a.attrelid = named.oid where a.attnum > 0 and not a.attisdropped
    union all
    select attnum, name, generated, t.typbasetype, t.typtypmod
    from base join pg_type t on t.oid = type and t.typtype = 'd')
select named.table_name, base.name, quote_ident(base.name) as quoted, base.generated,
       base.attnum in (select attnum from key) as in_key, base.modifier, t.typname::text as type_name,
       e.typname::text as element_name, coalesce(e.typtype = 'c', false) as composite_elements
from named, base join pg_type t on t.oid = type
left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
where t.typtype <> 'd' order by base.attnum";

/// Name (`schema.table`) and columns of a table.
async fn columns(client: &Client, table: &str, envelope: Envelope) -> (String, Vec<ComparedColumn>) {
    let rows = client
        .query(COLUMNS, &[&table])
        .await
        .unwrap_or_else(|error| panic!("{table}: {error:?}"));
    let first = rows.first().unwrap_or_else(|| panic!("{table} has no columns"));
    let name = first.get("table_name");
    (name, rows.iter().map(|row| column(row, envelope)).collect())
}

fn column(row: &tokio_postgres::Row, envelope: Envelope) -> ComparedColumn {
    let element: Option<String> = row.get("element_name");
    let value = format!("t.{}", row.get::<_, String>("quoted"));
    let modifier: i32 = row.get("modifier");
    let kind: String = element.clone().unwrap_or_else(|| row.get("type_name"));
    let expression = match &element {
        None => rendered(envelope, &kind, modifier, &value),
        Some(_) if envelope != Envelope::Debezium => format!("{value}::text"),
        Some(_) => list(&kind, modifier, &value, row.get("composite_elements")),
    };
    let array = element.is_some() && envelope == Envelope::Debezium;
    ComparedColumn {
        name: row.get("name"),
        expression,
        array,
        float: matches!(kind.as_str(), "float4" | "float8") && (array || element.is_none()),
        generated: row.get("generated"),
        key: row.get("in_key"),
    }
}

/// SQL expression of an event's text for a value of this type.
fn rendered(envelope: Envelope, kind: &str, modifier: i32, value: &str) -> String {
    match kind {
        "bool" => format!("{value}::text"),
        "bytea" if envelope != Envelope::Debezium => format!("encode({value}, 'hex')"),
        "timestamp" | "timestamptz" if envelope == Envelope::Dms => {
            // ISO 8601 has no infinity, and writes years before Christ differently.
            let plain = format!("isfinite({value}) and {value}::text not like '%BC'");
            let text = format!("replace(({value} at time zone 'UTC')::timestamp::text, ' ', 'T') || 'Z'");
            let text = match kind {
                "timestamp" => format!("replace({value}::text, ' ', 'T') || 'Z'"),
                _ => text,
            };
            format!("case when {plain} then {text} else {value}::text end")
        }
        "date" | "time" | "timetz" | "timestamp" | "timestamptz" if envelope != Envelope::Debezium => {
            format!("{value}::text")
        }
        _ if envelope == Envelope::Debezium => debezium_text(kind, modifier, value),
        _ => output(value),
    }
}

/// SQL expression of the type's output function: a cast to text would strip the blanks of a char(n).
fn output(value: &str) -> String {
    format!("case when num_nulls({value}) = 0 then format('%s', {value}) end")
}

/// SQL expression of Debezium's text for a value of this type.
fn debezium_text(kind: &str, modifier: i32, value: &str) -> String {
    let finite = |text: String| format!("case when isfinite({value}) then {text} else {value}::text end");
    let text = match kind {
        "bytea" => format!("translate(encode({value}, 'base64'), E'\\n', '')"),
        "date" => finite(format!("{} || 'Z'", iso_date(value))),
        "timestamp" => finite(format!("{} || 'T' || {value}::time || 'Z'", iso_date(value))),
        "timestamptz" => {
            let utc = format!("({value} at time zone 'UTC')");
            let digits = u8::try_from(modifier).unwrap_or(6);
            let length = if digits == 0 { 8 } else { 9 + digits };
            let time = format!("left(to_char({utc}, 'HH24:MI:SS.US'), {length})");
            finite(format!("{} || 'T' || {time} || 'Z'", iso_date(&utc)))
        }
        "time" => format!("{value}::text || 'Z'"),
        "timetz" => format!("({value} at time zone 'UTC')::time::text || 'Z'"),
        "interval" => format!(
            "format('P%sY%sM%sDT%sH%sM%sS', extract(year from {value}), extract(month from {value}), \
             extract(day from {value}), extract(hour from {value}), extract(minute from {value}), \
             trim_scale(extract(second from {value})))"
        ),
        "money" => format!("{value}::numeric::text"),
        "point" => format!("format('(%s,%s)', ({value})[0], ({value})[1])"),
        "bit" | "varbit" if modifier == 1 => {
            format!("case {value}::text when '1' then 'true' when '0' then 'false' else '' end")
        }
        "bit" | "varbit" => bits_text(value),
        _ => return output(value),
    };
    format!("case when {value} is not null then {text} end")
}

/// SQL expression of a finite date or timestamp as ISO 8601 date.
fn iso_date(value: &str) -> String {
    // PostgreSQL has no year 0. ISO 8601 writes 1 BC as the year 0.
    let year = format!("(extract(year from {value}) + (extract(year from {value}) < 0)::int)::int");
    format!(
        "case when {year} > 9999 then '+' when {year} < 0 then '-' else '' end \
         || case when abs({year}) > 9999 then abs({year})::text else lpad(abs({year})::text, 4, '0') end \
         || to_char({value}, '-MM-DD')"
    )
}

/// SQL expression of bits as base64 of little-endian bytes.
///
/// Zero bytes at the end are omitted.
fn bits_text(value: &str) -> String {
    let byte = format!("lpad(reverse(substr(reverse({value}::text), 8 * i + 1, 8)), 8, '0')::bit(8)::int");
    format!(
        "translate(encode(rtrim((select coalesce(string_agg(set_byte('\\x00'::bytea, 0, {byte}), '' \
         order by i), '') from generate_series(0, (length({value}::text) - 1) / 8) i), '\\x00'::bytea), \
         'base64'), E'\\n', '')"
    )
}

/// SQL expression of an array's elements as JSON list of texts.
fn list(kind: &str, modifier: i32, array: &str, composite: bool) -> String {
    // unnest would expand composite elements into columns.
    let (element, from) = match composite {
        true => (
            format!("({array})[i]"),
            format!("generate_subscripts({array}, 1) as i"),
        ),
        false => (
            "e".to_owned(),
            format!("unnest({array}) with ordinality as u(e, i)"),
        ),
    };
    let text = rendered(Envelope::Debezium, kind, modifier, &element);
    format!(
        "case when {array} is not null then \
         (select coalesce(jsonb_agg({text} order by i), '[]')::text from {from}) end"
    )
}
