//! Writes the first inputs of the fuzzer into a folder.
//!
//! The folder is the argument. For each plugin it writes the rows that a real PostgreSQL sends for a varied
//! workload. It writes the catalog after this workload once. It also writes checkpoints that real drains
//! store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use scenarios::fixture::{Fixture, Plugin};
use scenarios::lambda::function::Outcome;
use scenarios::postgres::query::{execute, rows, value};
use scenarios::postgres::sql_text::{VALUE_SETTINGS, WAL2JSON_OPTIONS, create_slot_sql};
use scenarios::postgres::{Postgres, PostgresSettings};
use serde_json::json;
use tokio_postgres::Client;

const WORKLOAD: &str = include_str!("corpus/workload.sql");

/// Statements for a database without an encoding: bytes that are not text.
const ASCII: [(&str, &str); 3] = [
    (
        "bytes-that-are-no-text",
        r"insert into t values (1, E'\xff\xfe'), (2, 'a' || E'\xc3' || 'b')",
    ),
    (
        "a-key-that-is-no-text",
        r"insert into t values (3, 'x'); update k set v = E'\xe9'; delete from k",
    ),
    (
        "a-message-that-is-no-text",
        r"select pg_logical_emit_message(true, E'p\xff', 'c'), pg_logical_emit_message(true, 'p', E'\xff')",
    ),
];

pub(crate) fn main() {
    let folder = std::env::args_os().nth(2).map(PathBuf::from);
    let folder = folder.expect("the argument is the folder to write to");
    scenarios::block_on(async {
        rows_of_plugins(&folder).await;
        checkpoints(&folder).await;
    });
}

async fn rows_of_plugins(folder: &Path) {
    let server = Postgres::start(PostgresSettings::default()).await;
    server.create_database("utf8").await;
    let client = session(&server, "utf8").await;
    let mut parts = WORKLOAD
        .split("--! ")
        .skip(1)
        .map(|part| part.split_once('\n').unwrap_or((part, "")));
    let (_, tables) = parts.next().expect("the workload begins with the tables");
    execute(&client, tables).await;
    slots(&client, "utf8").await;
    for (at, (name, statements)) in parts.enumerate() {
        execute(&client, statements).await;
        // Bit 0 stays 0, otherwise the fuzzer decodes with an empty catalog. The other bits choose how events
        // are encoded.
        for plugin in Plugin::ALL {
            peek(&client, "utf8", plugin, folder, name, (at * 2) as u8).await;
        }
    }
    let file = folder.join("catalog.json");
    write(&file, catalog(&client).await.as_bytes());

    execute(
        &server.admin("postgres").await,
        "create database ascii encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'",
    )
    .await;
    let client = session(&server, "ascii").await;
    execute(
        &client,
        r"create table t (id int primary key, v text); create table k (v text primary key);
         insert into k values (E'\xff')",
    )
    .await;
    slots(&client, "ascii").await;
    for (name, statements) in ASCII {
        execute(&client, statements).await;
        // The server refuses to send these with pgoutput.
        for plugin in [Plugin::Wal2json, Plugin::TestDecoding] {
            peek(&client, "ascii", plugin, folder, name, 0).await;
        }
    }
}

/// Connection with the settings that change the output of plugins.
///
/// The function's sessions have the same settings. The publication `spillway` is created, too.
async fn session(server: &Postgres, database: &str) -> Client {
    let client = server.admin(database).await;
    let sql =
        format!("{VALUE_SETTINGS}; set search_path = public; create publication spillway for all tables");
    execute(&client, &sql).await;
    client
}

async fn slots(client: &Client, database: &str) {
    for plugin in Plugin::ALL.map(Plugin::name) {
        execute(client, &create_slot_sql(&format!("{database}_{plugin}"), plugin)).await;
    }
}

/// Writes a slot's rows to a file, and advances the slot.
async fn peek(client: &Client, database: &str, plugin: Plugin, folder: &Path, name: &str, options: u8) {
    // The options of the function.
    let asked = match plugin {
        Plugin::Pgoutput => "'proto_version', '1', 'publication_names', 'spillway', 'messages', 'true'",
        Plugin::Wal2json => {
            &format!("{WAL2JSON_OPTIONS}, 'include-transaction', 'true', 'include-type-oids', 'true'")
        }
        Plugin::TestDecoding => "'include-xids', 'true', 'include-timestamp', 'true'",
    };
    let slot = format!("{database}_{}", plugin.name());
    let sql = format!("select data from pg_logical_slot_peek_binary_changes('{slot}', null, null, {asked})");
    let peeked = rows(client, &sql, &[]).await;
    let peeked: Vec<Vec<u8>> = peeked.iter().map(|row| row.get(0)).collect();
    write(
        &folder.join(plugin.name()).join(name.trim()),
        &input(options, &peeked),
    );
    execute(
        client,
        &format!("select pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn())"),
    )
    .await;
}

/// Input in the format that the targets read, in `checks/rows.rs`.
fn input(options: u8, rows: &[Vec<u8>]) -> Vec<u8> {
    let mut input = vec![options];
    for row in rows {
        let length = u16::try_from(row.len()).expect("the workload has no long rows");
        input.extend(length.to_be_bytes());
        input.extend(row);
    }
    input
}

/// The catalog as JSON, with the columns that the function queries.
async fn catalog(client: &Client) -> String {
    const CATALOG: &str = "
        select json_build_object(
          'types', (
            select json_agg(json_build_object(
              'oid', y.oid::int8, 'schema', n.nspname, 'name', y.typname, 'printed', format_type(y.oid, null),
              'base', case when y.typtype = 'd' then json_build_array(
                y.typbasetype::int8, y.typtypmod, format_type(y.typbasetype, y.typtypmod)) end,
              'element', case when y.typoutput = 'array_out'::regproc then json_build_array(
                y.typelem::int8, ascii(y.typdelim::text)) end) order by y.oid)
            from pg_type y join pg_namespace n on n.oid = y.typnamespace
            where y.oid >= 16384),
          'tables', json_agg(json_build_object(
            'schema', n.nspname, 'name', c.relname,
            'key', (
              select coalesce(json_agg(a.attname order by k.place), '[]')
              from pg_index i cross join unnest(i.indkey::int2[]) with ordinality k(attnum, place)
              join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
              where i.indrelid = c.oid and i.indimmediate
                and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end),
            'primary', (
              select coalesce(json_agg(a.attname order by k.place), '[]')
              from pg_index i cross join unnest(i.indkey::int2[]) with ordinality k(attnum, place)
              join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
              where i.indrelid = c.oid and i.indisprimary),
            'deferrable', exists (
              select from pg_index i where i.indrelid = c.oid and i.indisprimary and not i.indimmediate),
            'full', c.relreplident = 'f',
            'columns', (
              select coalesce(
                json_agg(
                  json_build_array(
                    attname, atttypid::int8, atttypmod, format_type(atttypid, atttypmod),
                    attlen = -1 and attstorage <> 'p')
                  order by attnum),
                '[]')
              from pg_attribute
              where attrelid = c.oid and attnum > 0 and not attisdropped)) order by c.oid))::text
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema')";
    value::<String>(client, CATALOG).await + "\n"
}

/// Writes checkpoints: of a first drain, of a later one, and of one that stopped inside a transaction.
async fn checkpoints(folder: &Path) {
    for plugin in Plugin::ALL {
        let fixture = Fixture::new(plugin).await;
        let keep = async |tick| {
            let stored = fixture.ssm.get(&fixture.parameter);
            let stored = stored.expect("a drain stores its checkpoint");
            let name = format!("{}-{tick}", plugin.name());
            write(&folder.join("checkpoint").join(name), stored.as_bytes());
            stored
        };
        fixture.sql("create table t (id serial primary key)").await;
        for tick in ["first", "later"] {
            fixture.sql("insert into t default values").await;
            fixture.drain().await;
            keep(tick).await;
        }
        fixture
            .sql("insert into t select from generate_series(1, 200000)")
            .await;
        // The time is too short for the whole transaction. The speed of the machine decides how much is sent,
        // and whether the invocation answers in time.
        let short = Duration::from_secs(6);
        while !keep("inside").await.contains(r#""progress":{"#) {
            if let Outcome::Answer(report) = fixture.function.invoke(&json!({}), short).await {
                assert_ne!(
                    report["stopped"], "empty",
                    "200,000 rows were drained in {short:?}"
                );
            }
        }
    }
}

fn write(file: &Path, content: &[u8]) {
    let written = file
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(file, content));
    written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
