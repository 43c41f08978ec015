//! Random DDL of a round.

use crate::postgres::sql_text::{quote_identifier, quote_literal};

use super::column_types::{LARGE, TYPES};
use super::schema::{RandomColumn, RandomTable, attach_leaf, set_identity};
use super::script::Script;

/// Alters a random table, if any is left.
pub(super) async fn alter(script: &mut Script, tables: &mut Vec<RandomTable>) {
    if tables.is_empty() {
        return;
    }
    let at = script.random.usize(..tables.len());
    let table = &mut tables[at];
    match script.random.u32(..100) {
        0..20 => rename_column(script, table).await,
        20..40 => change_identity(script, table).await,
        40..52 => change_key(script, table).await,
        52..62 => change_type(script, table).await,
        62..70 => add_column(script, table).await,
        70..77 => drop_column(script, table).await,
        77..84 => rename_table(script, table).await,
        84..92 => change_partitions(script, table).await,
        92..94 => unpublish(script, table).await,
        94..96 => change_own_type(script).await,
        _ => {
            let drop = format!("drop table {}", table.quoted());
            if script.ddl(&drop).await {
                tables.swap_remove(at);
            }
        }
    }
}

/// Renames a type of the application, or a value of one.
async fn change_own_type(script: &mut Script) {
    let schema = script.schema.clone();
    let sql = match script.random.u32(..3) {
        0 => format!("alter type {schema}.mood rename value 'ok' to 'renamed'"),
        1 => format!(
            "alter type {schema}.\"Mood\" rename to date_{}",
            script.random.u32(..9)
        ),
        _ => format!("alter type {schema}.pair rename attribute b to c cascade"),
    };
    script.ddl(&sql).await;
}

/// Removes the table from its publication.
async fn unpublish(script: &mut Script, table: &RandomTable) {
    for publication in ["leaves", "roots"] {
        let (schema, name) = (script.schema.clone(), table.quoted());
        let sql = format!("alter publication {publication} drop table {schema}.{name}");
        script.ddl(&sql).await;
    }
}

/// Renames a column, mostly one of the key. Sometimes another column gets the old name.
async fn rename_column(script: &mut Script, table: &mut RandomTable) {
    let at = match script.chance(60) {
        true => {
            let key = table
                .columns
                .iter()
                .position(|column| table.key.contains(&column.name));
            key.unwrap_or(0)
        }
        false => script.random.usize(..table.columns.len()),
    };
    let (name, old) = (new_name(table), table.columns[at].name.clone());
    let sql = format!(
        "alter table {} rename {} to {}",
        table.quoted(),
        quote_identifier(&old),
        quote_identifier(&name)
    );
    if !script.ddl(&sql).await {
        return;
    }
    table.columns[at].name.clone_from(&name);
    for key in table.key.iter_mut().filter(|key| **key == old) {
        key.clone_from(&name);
    }
    let other = script.random.usize(..table.columns.len());
    if script.chance(40) && other != at {
        let from = quote_identifier(&table.columns[other].name);
        let sql = format!(
            "alter table {} rename {from} to {}",
            table.quoted(),
            quote_identifier(&old)
        );
        if script.ddl(&sql).await {
            table.columns[other].name = old;
        }
    }
}

async fn change_identity(script: &mut Script, table: &RandomTable) {
    let relations = table.relations();
    let relation = script.pick(&relations).clone();
    set_identity(script, table, &relation).await;
    script.describe().await;
}

/// Drops the primary key, and often adds another one.
async fn change_key(script: &mut Script, table: &mut RandomTable) {
    let name = table.quoted();
    let find = format!(
        "do $$ declare found name; begin
           select conname into found from pg_constraint
           where conrelid = {}::regclass and contype = 'p';
           if found is not null then execute format({}, found); end if;
         end $$",
        quote_literal(&name),
        quote_literal(&format!(
            "alter table {} drop constraint %I",
            name.replace('%', "%%")
        ))
    );
    if !script.ddl(&find).await {
        return;
    }
    table.key.clear();
    let columns = table
        .columns
        .iter()
        .filter(|column| column.kind.in_keys && column.not_null);
    let candidates: Vec<String> = columns.map(|column| column.name.clone()).collect();
    if !script.chance(65) || candidates.is_empty() {
        return;
    }
    let mut key = vec![script.pick(&candidates).clone()];
    let more = script.pick(&candidates).clone();
    if !key.contains(&more) {
        key.push(more);
    }
    if !table.leaves.is_empty() && !key.contains(&table.columns[1].name) {
        key.push(table.columns[1].name.clone());
    }
    let columns: Vec<String> = key.iter().map(|name| quote_identifier(name)).collect();
    let add = format!("alter table {name} add primary key ({})", columns.join(", "));
    if script.ddl(&add).await {
        table.key = key;
    }
}

/// Changes a type to text, or an integer to a larger one.
async fn change_type(script: &mut Script, table: &mut RandomTable) {
    let at = script.random.usize(..table.columns.len());
    let (column, name) = (quote_identifier(&table.columns[at].name), table.quoted());
    let (kind, new) = match table.columns[at].kind.declaration {
        "smallint" | "int" => ("bigint", None),
        _ => ("text", Some(&TYPES[9])),
    };
    let sql = format!("alter table {name} alter {column} type {kind} using {column}::{kind}");
    if script.ddl(&sql).await
        && let Some(new) = new
    {
        table.columns[at].kind = new;
    }
}

async fn add_column(script: &mut Script, table: &mut RandomTable) {
    let large = script.chance(30);
    let kind = if large { &LARGE[0] } else { script.pick(TYPES) };
    let (name, schema) = (new_name(table), script.schema.clone());
    let declaration = kind.declaration.replace("{s}", &schema);
    let default = match script.chance(50) {
        true => format!(" default {}", script.pick(kind.values).replace("{s}", &schema)),
        false => String::new(),
    };
    let sql = format!(
        "alter table {} add {} {declaration}{default}",
        table.quoted(),
        quote_identifier(&name)
    );
    if script.ddl(&sql).await {
        table.columns.push(RandomColumn {
            name,
            kind,
            generated: false,
            not_null: false,
        });
    }
}

/// Drops a column that is neither the first nor the second.
async fn drop_column(script: &mut Script, table: &mut RandomTable) {
    if table.columns.len() < 3 {
        return;
    }
    let at = script.random.usize(2..table.columns.len());
    let name = table.columns[at].name.clone();
    let sql = format!("alter table {} drop {}", table.quoted(), quote_identifier(&name));
    if script.ddl(&sql).await {
        table.columns.remove(at);
        // The primary key and an index of the column are dropped with it.
        if table.key.contains(&name) {
            table.key.clear();
        }
    }
}

async fn rename_table(script: &mut Script, table: &mut RandomTable) {
    let name = format!("{} New", table.name);
    let sql = format!(
        "alter table {} rename to {}",
        table.quoted(),
        quote_identifier(&name)
    );
    if script.ddl(&sql).await {
        table.name = name;
    }
}

/// Detaches a partition, or attaches one with other bounds.
async fn change_partitions(script: &mut Script, table: &mut RandomTable) {
    if table.leaves.is_empty() {
        return;
    }
    let name = table.quoted();
    if script.chance(50) {
        let at = script.random.usize(..table.leaves.len());
        let leaf = quote_identifier(&table.leaves[at]);
        if script
            .ddl(&format!("alter table {name} detach partition {leaf}"))
            .await
        {
            table.leaves.remove(at);
        }
        return;
    }
    table.names += 1;
    let leaf = format!("{} more {}", table.name, table.names);
    attach_leaf(script, table, &name, &leaf, "from (10) to (20)").await;
    script.describe().await;
}

fn new_name(table: &mut RandomTable) -> String {
    table.names += 1;
    format!("n{}", table.names)
}
