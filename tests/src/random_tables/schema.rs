//! Random tables of a round.

use crate::postgres::sql_text::quote_identifier;

use super::column_types::{ColumnType, ID, LARGE, OWN_TYPES, TYPES};
use super::script::Script;

/// Publications of a batch: name, and its settings in SQL.
pub(super) const PUBLICATIONS: [(&str, &str); 3] = [
    ("leaves", "publish_via_partition_root = false"),
    ("roots", "publish_via_partition_root = true"),
    (
        "inserts",
        "publish = 'insert, truncate', publish_via_partition_root = false",
    ),
];
/// Publication that sends generated columns, from PostgreSQL 18 on.
pub(super) const GENERATED: (&str, &str) = (
    "generated",
    "publish_via_partition_root = true, publish_generated_columns = stored",
);

/// Table of a round. The statements are generated from it.
#[derive(Debug)]
pub(super) struct RandomTable {
    /// Name without quotes.
    pub(super) name: String,
    pub(super) columns: Vec<RandomColumn>,
    /// Names of the partitions with rows, without quotes.
    ///
    /// Empty for a table without partitions.
    pub(super) leaves: Vec<String>,
    /// Names of the columns of the primary key, which may be empty.
    pub(super) key: Vec<String>,
    /// Number of names that DDL has created. The next name contains it.
    pub(super) names: u32,
}

/// Column of a table.
#[derive(Debug)]
pub(super) struct RandomColumn {
    /// Name without quotes.
    pub(super) name: String,
    pub(super) kind: &'static ColumnType,
    pub(super) generated: bool,
    pub(super) not_null: bool,
}

impl RandomTable {
    /// Name in SQL, without the schema.
    pub(super) fn quoted(&self) -> String {
        quote_identifier(&self.name)
    }

    /// Names in SQL of all relations that can have a replica identity: the table and its partitions.
    pub(super) fn relations(&self) -> Vec<String> {
        let leaves = self.leaves.iter().map(|name| quote_identifier(name));
        std::iter::once(self.quoted()).chain(leaves).collect()
    }

    /// Columns that a statement can set.
    pub(super) fn writable(&self) -> Vec<usize> {
        let all = self.columns.iter().enumerate();
        all.filter(|(_, column)| !column.generated)
            .map(|(at, _)| at)
            .collect()
    }
}

impl RandomColumn {
    fn new(name: &str, kind: &'static ColumnType, not_null: bool) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            generated: false,
            not_null,
        }
    }

    fn declaration(&self, schema: &str) -> String {
        let kind = self.kind.declaration.replace("{s}", schema);
        let not_null = if self.not_null { " not null" } else { "" };
        format!("{} {kind}{not_null}", quote_identifier(&self.name))
    }
}

/// Creates the schema and the tables of a round.
pub(super) async fn create(script: &mut Script, version: u32) -> Vec<RandomTable> {
    let schema = script.schema.clone();
    let types = OWN_TYPES.replace("{s}", &schema);
    script.must(&format!("create schema {schema}; {types}")).await;
    let count = script.random.u32(1..4);
    let mut tables = Vec::new();
    for number in 0..count {
        tables.push(create_table(script, number, version).await);
    }
    if script.chance(10) {
        script.must("create table nothing ()").await;
    }
    script.describe().await;
    tables
}

async fn create_table(script: &mut Script, number: u32, version: u32) -> RandomTable {
    let odd = *script.pick(&[
        "t",
        "T",
        "order items",
        "tä.b",
        "select",
        "a\"b",
        "x:",
        "t[1]",
        "t,u*",
    ]);
    let mut table = RandomTable {
        name: format!("{odd}{number}"),
        columns: columns(script),
        leaves: Vec::new(),
        key: Vec::new(),
        names: 0,
    };
    let parted = script.chance(40);
    let parts = if parted {
        " partition by range (region)"
    } else {
        ""
    };
    let list = declarations(script, &table);
    let name = table.quoted();
    script.must(&format!("create table {name} ({list}){parts}")).await;
    if parted {
        create_partitions(script, &mut table).await;
    } else {
        drop_a_column(script, &name).await;
    }
    generate_column(script, &mut table, version).await;
    for column in &table.columns {
        if LARGE.iter().any(|large| std::ptr::eq(large, column.kind)) || column.kind.declaration == "text" {
            let column = quote_identifier(&column.name);
            script
                .must(&format!("alter table {name} alter {column} set storage external"))
                .await;
        }
    }
    create_key(script, &mut table, parted).await;
    for relation in table.relations() {
        if relation == name || script.chance(40) {
            set_identity(script, &table, &relation).await;
        }
    }
    publish(script, &table, version).await;
    table
}

/// Random columns. The first is the id, whose name may be odd. The second is `region`.
fn columns(script: &mut Script) -> Vec<RandomColumn> {
    let id = *script.pick(&["id", "Id", "the id", "i\"d"]);
    let mut columns = vec![
        RandomColumn::new(id, &ID, true),
        RandomColumn::new("region", &ID, true),
    ];
    for number in 0..script.random.usize(1..7) {
        let odd = *script.pick(&["c", "C", "c c", "select", "é", "c:", "c[1]", "c'"]);
        let large = script.chance(20);
        let at = script.random.usize(..TYPES.len());
        let kind = if large {
            &LARGE[at % LARGE.len()]
        } else {
            &TYPES[at]
        };
        let not_null = kind.in_keys && script.chance(30);
        columns.push(RandomColumn::new(&format!("{odd}{number}"), kind, not_null));
    }
    if script.chance(15) {
        // Names that differ in case only.
        columns.push(RandomColumn::new("V", &LARGE[0], false));
        columns.push(RandomColumn::new("v", &TYPES[9], false));
    }
    columns
}

fn declarations(script: &mut Script, table: &RandomTable) -> String {
    let columns = table.columns.iter();
    let list: Vec<String> = columns.map(|column| column.declaration(&script.schema)).collect();
    list.join(", ")
}

/// Sometimes adds two columns and drops them.
///
/// The number of the next column then has a gap before it.
async fn drop_a_column(script: &mut Script, name: &str) {
    if script.chance(25) {
        script
            .must(&format!(
                "alter table {name} add gone int, add late text; alter table {name} drop gone, drop late"
            ))
            .await;
    }
}

/// Sometimes adds a generated column.
async fn generate_column(script: &mut Script, table: &mut RandomTable, version: u32) {
    if !script.chance(25) {
        return;
    }
    let kind = if version >= 18 && script.chance(40) {
        "virtual"
    } else {
        "stored"
    };
    let (name, from) = (table.quoted(), quote_identifier(&table.columns[0].name));
    let add = format!("alter table {name} add made int generated always as ({from} * 2) {kind}");
    if script.try_run(&add).await {
        let mut column = RandomColumn::new("made", &ID, false);
        column.generated = true;
        table.columns.push(column);
    }
}

async fn create_key(script: &mut Script, table: &mut RandomTable, parted: bool) {
    let mut key = vec![table.columns[0].name.clone()];
    if parted {
        key.push("region".to_owned());
    }
    let (keyable, made) = (
        keyable(table),
        table.columns.iter().any(|column| column.name == "made"),
    );
    match script.random.u32(..100) {
        0..15 => return create_leaf_keys(script, table).await,
        15..55 => {}
        55..85 => {
            for _ in 0..script.random.usize(1..3) {
                let column = script.pick(&keyable).clone();
                if !key.contains(&column) {
                    key.push(column);
                }
            }
            if made && !parted && script.chance(30) {
                key.push("made".to_owned());
            }
            script.random.shuffle(&mut key);
        }
        _ if made && !parted => key = vec!["made".to_owned()],
        _ => {}
    }
    let columns: Vec<String> = key.iter().map(|name| quote_identifier(name)).collect();
    let deferrable = if script.chance(8) { " deferrable" } else { "" };
    let add = format!(
        "alter table {} add primary key ({}){deferrable}",
        table.quoted(),
        columns.join(", ")
    );
    if script.try_run(&add).await {
        table.key = key;
    }
}

/// Creates primary keys of single partitions. The table has none.
async fn create_leaf_keys(script: &mut Script, table: &RandomTable) {
    for leaf in &table.leaves {
        if script.chance(60) {
            let key = quote_identifier(&table.columns[0].name);
            script
                .try_run(&format!(
                    "alter table {} add primary key ({key})",
                    quote_identifier(leaf)
                ))
                .await;
        }
    }
}

/// Names of the not-null columns that a key may contain.
fn keyable(table: &RandomTable) -> Vec<String> {
    let columns = table.columns.iter();
    let columns = columns.filter(|column| column.kind.in_keys && column.not_null && !column.generated);
    columns.map(|column| column.name.clone()).collect()
}

/// Creates two partitions of a table. The second has another order of columns, or has partitions itself.
async fn create_partitions(script: &mut Script, table: &mut RandomTable) {
    let name = table.quoted();
    let (low, high) = (format!("{} low", table.name), format!("{} High", table.name));
    script
        .must(&format!(
            "create table {} partition of {name} for values from (0) to (5)",
            quote_identifier(&low)
        ))
        .await;
    table.leaves.push(low);
    let parent = if script.chance(30) {
        let middle = quote_identifier(&format!("{} middle", table.name));
        let id = quote_identifier(&table.columns[0].name);
        script
            .must(&format!(
                "create table {middle} partition of {name} for values from (5) to (10)
                   partition by range ({id})"
            ))
            .await;
        attach_leaf(script, table, &middle, &high, "from (minvalue) to (12)").await;
        let last = format!("{} last", table.name);
        script
            .must(&format!(
                "create table {} partition of {middle} for values from (12) to (maxvalue)",
                quote_identifier(&last)
            ))
            .await;
        table.leaves.push(last);
        return;
    } else {
        name
    };
    attach_leaf(script, table, &parent, &high, "from (5) to (10)").await;
}

/// Attaches a partition; returns whether the server accepted the statements.
///
/// The partition has another order of columns, and a dropped column. A table with a generated column gets a
/// plain partition.
pub(super) async fn attach_leaf(
    script: &mut Script,
    table: &mut RandomTable,
    parent: &str,
    leaf: &str,
    bounds: &str,
) -> bool {
    let columns = table.columns.iter().rev().filter(|column| !column.generated);
    let mut list: Vec<String> = columns.map(|column| column.declaration(&script.schema)).collect();
    list.insert(1, "gone int".to_owned());
    let name = quote_identifier(leaf);
    let generated = table.columns.iter().any(|column| column.generated);
    if generated {
        // A generated column must be equal in table and partition. `partition of` copies it.
        let create = format!("create table {name} partition of {parent} for values {bounds}");
        let done = script.try_run(&create).await;
        if done {
            table.leaves.push(leaf.to_owned());
        }
        return done;
    }
    let create = format!(
        "create table {name} ({}); alter table {name} drop gone",
        list.join(", ")
    );
    let attach = format!("alter table {parent} attach partition {name} for values {bounds}");
    let done = script.try_run(&create).await && script.try_run(&attach).await;
    if done {
        table.leaves.push(leaf.to_owned());
    }
    done
}

/// Often sets a random replica identity of a relation.
pub(super) async fn set_identity(script: &mut Script, table: &RandomTable, relation: &str) {
    let identity = match script.random.u32(..100) {
        0..45 => return,
        45..65 => "full",
        65..75 => "nothing",
        75..80 => "default",
        _ => return set_index_identity(script, table, relation).await,
    };
    let set = format!("alter table {relation} replica identity {identity}");
    script.try_run(&set).await;
}

async fn set_index_identity(script: &mut Script, table: &RandomTable, relation: &str) {
    let mut columns = vec![table.columns[0].name.clone()];
    if !table.leaves.is_empty() {
        columns.push("region".to_owned());
    }
    let more = script.pick(&keyable(table)).clone();
    if script.chance(60) && !columns.contains(&more) {
        columns.insert(0, more);
    }
    let columns: Vec<String> = columns.iter().map(|name| quote_identifier(name)).collect();
    let index = quote_identifier(&format!("identity {}", script.random.u32(..)));
    let create = format!(
        "create unique index {index} on {relation} ({})",
        columns.join(", ")
    );
    if script.try_run(&create).await {
        let set = format!("alter table {relation} replica identity using index {index}");
        script.try_run(&set).await;
    }
}

async fn publish(script: &mut Script, table: &RandomTable, version: u32) {
    let number = script.random.usize(..7);
    let publication = match number {
        0 | 1 => PUBLICATIONS[0].0,
        2 | 3 => PUBLICATIONS[1].0,
        4 => PUBLICATIONS[2].0,
        5 if version >= 18 => GENERATED.0,
        5 => PUBLICATIONS[1].0,
        _ => return,
    };
    let schema = script.schema.clone();
    let add = format!(
        "alter publication {publication} add table {schema}.{}",
        table.quoted()
    );
    script.must(&add).await;
}
