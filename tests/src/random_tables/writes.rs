//! Random transactions of a round.

use crate::postgres::sql_text::quote_identifier;

use super::schema::{RandomColumn, RandomTable};
use super::script::Script;

/// Runs random transactions on the tables.
pub(super) async fn write(script: &mut Script, tables: &[RandomTable], transactions: u32) {
    for _ in 0..transactions {
        script.must("begin").await;
        for _ in 0..script.random.u32(1..6) {
            statement(script, tables).await;
        }
        let end = if script.chance(5) { "rollback" } else { "commit" };
        // A deferred key may refuse the commit.
        script.try_run(end).await;
    }
}

/// Runs a statement in a savepoint, which is sometimes rolled back.
async fn statement(script: &mut Script, tables: &[RandomTable]) {
    if tables.is_empty() {
        return;
    }
    let table = script.pick(tables);
    let sql = match script.random.u32(..100) {
        0..45 => insert(script, table),
        45..80 => update(script, table),
        80..95 => delete(script, table),
        95..97 => truncate(script, table),
        _ => format!(
            "insert into {} select * from {} limit 0",
            table.quoted(),
            table.quoted()
        ),
    };
    let release = if script.chance(10) {
        "rollback to s"
    } else {
        "release s"
    };
    if !script.try_run(&format!("savepoint s; {sql}; {release}")).await {
        script.must("rollback to s").await;
    }
}

fn insert(script: &mut Script, table: &RandomTable) -> String {
    let columns = table.writable();
    let rows = script.random.usize(1..4);
    let mut lists = Vec::new();
    for _ in 0..rows {
        let mut list = Vec::new();
        for at in &columns {
            list.push(value(script, &table.columns[*at]));
        }
        lists.push(format!("({})", list.join(", ")));
    }
    let names: Vec<String> = columns
        .iter()
        .map(|at| quote_identifier(&table.columns[*at].name))
        .collect();
    format!(
        "insert into {} ({}) values {} on conflict do nothing",
        table.quoted(),
        names.join(", "),
        lists.join(", ")
    )
}

fn update(script: &mut Script, table: &RandomTable) -> String {
    let columns = table.writable();
    let mut set = Vec::new();
    for at in &columns {
        let column = &table.columns[*at];
        // The first two columns are in most keys. A key change must not be too frequent.
        if script.chance(if *at < 2 { 15 } else { 40 }) {
            set.push(format!(
                "{} = {}",
                quote_identifier(&column.name),
                value(script, column)
            ));
        }
    }
    if set.is_empty() {
        let name = quote_identifier(&table.columns[1].name);
        set.push(format!("{name} = {name}"));
    }
    format!(
        "update {} set {}{}",
        table.quoted(),
        set.join(", "),
        some_rows(script, table)
    )
}

fn delete(script: &mut Script, table: &RandomTable) -> String {
    format!("delete from {}{}", table.quoted(), some_rows(script, table))
}

fn truncate(script: &mut Script, table: &RandomTable) -> String {
    match table.leaves.as_slice() {
        [_, ..] if script.chance(40) => format!(
            "truncate {}",
            quote_identifier(script.pick::<String>(&table.leaves))
        ),
        _ => format!("truncate {}", table.quoted()),
    }
}

/// Condition for a few rows; one seed always selects the same rows.
fn some_rows(script: &mut Script, table: &RandomTable) -> String {
    let (salt, count) = (script.random.u16(..), script.random.u32(1..4));
    format!(
        " where (tableoid, ctid) in (select tableoid, ctid from {} as drawn
           order by md5(drawn::text || '{salt}') limit {count})",
        table.quoted()
    )
}

/// Value of a column in SQL.
fn value(script: &mut Script, column: &RandomColumn) -> String {
    if column.name == "region" {
        return script.random.u32(..11).to_string();
    }
    if column.kind.values.is_empty() {
        return script.random.u32(1..25).to_string();
    }
    if !column.not_null && script.chance(20) {
        return "null".to_owned();
    }
    let value = *script.pick(column.kind.values);
    value.replace("{s}", &script.schema)
}
