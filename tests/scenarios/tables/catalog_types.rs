//! The catalog's type of a column decides how its values are written. The printed name of the type does not.
//!
//! A backfill writes each value as the log does, with each plugin, in each envelope.

use scenarios::consumer::Delivery;
use scenarios::fixture::{Fixture, FixtureBuilder, Plugin};
use scenarios::postgres::REPLUSER;
use serde_json::{Value, json};

use crate::support::backfill::{fixture_with_tables, run_backfill, start_event};
use crate::support::keys::operations;
use crate::support::versions::plugins;

crate::scenarios![
    a_type_that_was_renamed_or_replaced_keeps_its_form,
    an_array_of_a_dropped_type_stays_a_list,
    values_of_a_dropped_table_keep_the_form_of_their_types,
    a_value_keeps_the_digits_that_its_type_has_no_longer,
    a_backfill_condition_uses_the_search_path_of_the_database,
    a_search_path_with_types_of_built_in_names_does_not_stop_a_drain,
    each_value_of_wal2json_has_the_form_of_its_type,
];

crate::version_scenarios![
    values_do_not_depend_on_the_names_of_their_types,
    wal2json_values_do_not_depend_on_the_names_of_their_types,
    dms_values_do_not_depend_on_the_names_of_their_types,
];

/// Types whose names or forms mislead a reader of names.
const TYPES: &str = r#"
    create schema app;
    create domain app.date as text;
    create type app."integer" as enum ('7', 'x');
    create type public."boolean" as enum ('t', 'f');
    create type public._lead as enum ('{a}', 'b');
    create type public."a []" as enum ('z');
    create type public."an ""odd"" [name], (x)[]" as enum ('{1}', '"q"');
    create domain app.price as numeric(12,2);
    create domain app.prices as app.price[];
    create domain app.smaller as int;
    create domain app.smallest as app.smaller;
    create domain app.boxes as box[];
    create type app.pair as (boxes box[], lead public._lead, price app.price);
    create type app.spans as range (subtype = float8);
    create table app.other (a int, lead public._lead[]);
    create type app.piped;
    create function app.piped_in(cstring) returns app.piped language internal immutable strict as 'textin';
    create function app.piped_out(app.piped) returns cstring language internal immutable strict as 'textout';
    create type app.piped (input = app.piped_in, output = app.piped_out, like = text, delimiter = '|',
      category = 'S');
    create schema "My app";
    create type "My app".fixed;
    create function app.fixed_in(cstring, oid, int) returns "My app".fixed
      language internal immutable strict as 'numeric_in';
    create function app.fixed_out("My app".fixed) returns cstring
      language internal immutable strict as 'numeric_out';
    create type "My app".fixed (input = app.fixed_in, output = app.fixed_out, like = numeric, delimiter = ':',
      typmod_in = numerictypmodin, typmod_out = numerictypmodout);
    grant usage on schema app, "My app" to public;"#;

/// Values of catalog types, and their forms in two envelopes.
///
/// An item has the type of a column, a value in SQL, its JSON in Debezium's envelope, and its `type` in that
/// of wal2json. The last one is the type which wal2json names in a session with PostgreSQL's defaults, but
/// for domains in arrays and in domains.
#[rustfmt::skip]
const VALUES: &[(&str, &str, &str, &str)] = &[
    ("app.date", "'2024-01-02'", r#""2024-01-02""#, "text"),
    ("app.date[]", "'{2024-01-02}'", r#"["2024-01-02"]"#, "text[]"),
    (r#"app."integer""#, "'7'", r#""7""#, r#"app."integer""#),
    (r#"app."integer"[]"#, "'{7,x}'", r#"["7","x"]"#, r#"app."integer"[]"#),
    (r#"public."boolean""#, "'t'", r#""t""#, "boolean"),
    (r#"public."boolean"[]"#, "'{t,f}'", r#"["t","f"]"#, r#""boolean"[]"#),
    ("public._lead", "'{a}'", r#""{a}""#, "_lead"),
    ("public._lead[]", "array['b','{a}']::public._lead[]", r#"["b","{a}"]"#, "_lead[]"),
    (r#"public."a []""#, "'z'", r#""z""#, "a []"),
    (r#"public."a []"[]"#, "'{{z},{null}}'", r#"[["z"],[null]]"#, r#""a []"[]"#),
    (r#"public."an ""odd"" [name], (x)[]""#, "'{1}'", r#""{1}""#, r#"an ""odd"" [name], (x)[]"#),
    (r#"public."an ""odd"" [name], (x)[]"[]"#, r#"array['{1}','"q"']::public."an ""odd"" [name], (x)[]"[]"#, r#"["{1}","\"q\""]"#, r#""an ""odd"" [name], (x)[]"[]"#),
    ("box[]", "'{(1,1),(0,0);null;(2,2),(1,1)}'", r#"["(1,1),(0,0)",null,"(2,2),(1,1)"]"#, "box[]"),
    ("box[]", "'[0:0][2:3]={{(1,1),(0,0);(2,2),(1,1)}}'", r#"[["(1,1),(0,0)","(2,2),(1,1)"]]"#, "box[]"),
    ("app.boxes", "'{(1,1),(0,0);(2,2),(1,1)}'", r#"["(1,1),(0,0)","(2,2),(1,1)"]"#, "box[]"),
    ("app.boxes[]", "array['{(1,1),(0,0);(2,2),(1,1)}','{}']::app.boxes[]", r#"[["(1,1),(0,0)","(2,2),(1,1)"],[]]"#, "box[][]"),
    ("app.piped", "'a|b'", r#""a|b""#, "app.piped"),
    ("app.piped[]", r#"'{a,b|"c|d"|null}'"#, r#"["a,b","c|d",null]"#, "app.piped[]"),
    (r#""My app".fixed(5,2)"#, "'1.25'", r#""1.25""#, r#""My app".fixed(5,2)"#),
    (r#""My app".fixed(5,2)[]"#, "'{1.25:null}'", r#"["1.25",null]"#, r#""My app".fixed(5,2)[]"#),
    ("app.price", "1.5", r#""1.50""#, "numeric(12,2)"),
    ("app.price[]", "'[2:3]={1.5,null}'", r#"["1.50",null]"#, "numeric(12,2)[]"),
    ("app.prices", "'{1.5}'", r#"["1.50"]"#, "numeric(12,2)[]"),
    ("app.prices[]", "array['{1.5,2}']::app.prices[]", r#"[["1.50","2.00"]]"#, "numeric(12,2)[][]"),
    ("app.smallest", "7", "7", "integer"),
    ("app.smallest[]", "'{{1,null},{2,3}}'", "[[1,null],[2,3]]", "integer[]"),
    ("information_schema.cardinal_number", "5", "5", "integer"),
    ("information_schema.cardinal_number[]", "'{5}'", "[5]", "integer[]"),
    ("app.pair", "row('{(1,1),(0,0);(2,2),(1,1)}', '{a}', 1.5)", r#""(\"{(1,1),(0,0);(2,2),(1,1)}\",{a},1.50)""#, "app.pair"),
    ("app.pair[]", "array[row(null, 'b', 1)]::app.pair[]", r#"["(,b,1.00)"]"#, "app.pair[]"),
    ("app.other", "row(1, '{b}')", r#""(1,{b})""#, "app.other"),
    ("app.other[]", "array[row(1, null)]::app.other[]", r#"["(1,)"]"#, "app.other[]"),
    ("app.spans", "'(0.5,1]'", r#""(0.5,1]""#, "app.spans"),
    ("app.spans[]", r#"'{"(0.5,1]"}'"#, r#"["(0.5,1]"]"#, "app.spans[]"),
    ("int4multirange", "'{[1,2),[5,9)}'", r#""{[1,2),[5,9)}""#, "int4multirange"),
    ("int4multirange[]", r#"'{"{[1,2),[5,9)}",null}'"#, r#"["{[1,2),[5,9)}",null]"#, "int4multirange[]"),
    ("timestamp(3)[]", "'{2024-02-29 12:34:56.789}'", r#"["2024-02-29T12:34:56.789Z"]"#, "timestamp(3) without time zone[]"),
    ("varchar(20)", "'v'", r#""v""#, "character varying(20)"),
    (r#""char"[]"#, "'{c}'", r#"["c"]"#, r#""char"[]"#),
    ("int2vector", "'1 2'", r#""1 2""#, "int2vector"),
    ("regclass", "'app.other'", r#""app.other""#, "regclass"),
];

/// Settings of a database that change what PostgreSQL prints.
///
/// An administrator may make them.
const SETTINGS: [&str; 3] = ["", "quote_all_identifiers = on", "search_path = app, public"];

fn columns() -> Vec<String> {
    (0..VALUES.len()).map(|at| format!("c{at}")).collect()
}

/// The events of two rows with the same values: the first is backfilled, the other is in the log.
async fn rows_of_both(builder: FixtureBuilder, setting: &str) -> (Delivery, Vec<Value>) {
    let columns = columns();
    let typed: Vec<String> = columns
        .iter()
        .zip(VALUES)
        .map(|(name, (kind, ..))| format!("{name} {kind}"))
        .collect();
    let values: Vec<&str> = VALUES.iter().map(|(_, value, ..)| *value).collect();
    let insert = |id: u32| format!("insert into t values ({id}, {})", values.join(", "));
    let fixture = fixture_with_tables(
        builder,
        &format!(
            "{TYPES} create table t (id app.smallest primary key, {}); {}",
            typed.join(", "),
            insert(1)
        ),
    )
    .await;
    if !setting.is_empty() {
        let alter = format!("alter database \"{}\" set {setting}", fixture.database);
        fixture.sql(&alter).await;
    }
    fixture.sql(&insert(2)).await;
    fixture.sql("update t set id = 3 where id = 2").await;
    fixture.drain().await;
    run_backfill(&fixture, start_event(&["public.t"], 10)).await;
    let delivery = fixture.consume().await;
    let events = delivery.of_table("public.t");
    (delivery, events)
}

async fn values_do_not_depend_on_the_names_of_their_types(version: u32) {
    values(Some(version)).await;
}

async fn values(version: Option<u32>) {
    Plugin::each_of(&plugins(version).await, move |plugin| async move {
        for setting in SETTINGS {
            let builder = Fixture::builder(plugin).version(version);
            let (_, events) = rows_of_both(builder, setting).await;
            assert_eq!(operations(&events), "cdcrr", "{setting}");
            let mut wrong = Vec::new();
            for (column, (kind, value, expected, _)) in columns().iter().zip(VALUES) {
                let expected: Value = serde_json::from_str(expected).unwrap();
                for at in [0, 2, 3, 4] {
                    let (op, got) = (&events[at]["op"], &events[at]["after"][column]);
                    if *got != expected {
                        wrong.push(format!("{kind} {value} ({op}): {got} instead of {expected}"));
                    }
                }
            }
            assert!(wrong.is_empty(), "{setting}:\n{}", wrong.join("\n"));
            assert_eq!(events[1]["before"], json!({"id": 2}), "{setting}");
        }
    })
    .await;
}

/// Type and value of each column but the key.
fn wal2json_columns(event: &Value) -> Vec<(String, Value)> {
    let columns = event["columns"].as_array().unwrap().iter();
    columns
        .filter(|column| column["name"] != "id")
        .map(|column| {
            (
                column["type"].as_str().unwrap().to_owned(),
                column["value"].clone(),
            )
        })
        .collect()
}

async fn wal2json_values_do_not_depend_on_the_names_of_their_types(version: u32) {
    wal2json_values(Some(version)).await;
}

async fn wal2json_values(version: Option<u32>) {
    Plugin::each_of(&plugins(version).await, move |plugin| async move {
        for setting in SETTINGS {
            let builder = Fixture::builder(plugin).version(version);
            let (_, events) = rows_of_both(builder.env("ENVELOPE", "wal2json"), setting).await;
            assert_eq!(events.len(), 4, "{setting}: {events:#?}");
            let types: Vec<&str> = VALUES.iter().map(|(.., name)| *name).collect();
            let rows: Vec<_> = events.iter().map(wal2json_columns).collect();
            for row in &rows {
                let named: Vec<&str> = row.iter().map(|(name, _)| name.as_str()).collect();
                assert_eq!(named, types, "{setting}");
                assert_eq!(*row, rows[0], "{setting}");
            }
            for ((_, value), (kind, ..)) in rows[0].iter().zip(VALUES) {
                // Every value but a number is the text that PostgreSQL prints.
                let is_number =
                    ["app.price", "app.smallest", "information_schema.cardinal_number"].contains(kind);
                assert_eq!(
                    (value.is_number(), value.is_string()),
                    (is_number, !is_number),
                    "{kind}"
                );
            }
        }
    })
    .await;
}

async fn dms_values_do_not_depend_on_the_names_of_their_types(version: u32) {
    dms_values(Some(version)).await;
}

async fn dms_values(version: Option<u32>) {
    Plugin::each_of(&plugins(version).await, move |plugin| async move {
        for setting in SETTINGS {
            let builder = Fixture::builder(plugin).version(version);
            let (delivery, events) = rows_of_both(builder.env("ENVELOPE", "dms"), setting).await;
            assert_eq!(events.len(), 4, "{setting}: {events:#?}");
            let data = |event: &Value| {
                let mut data = event["data"].as_object().unwrap().clone();
                data.remove("id");
                data
            };
            for event in &events {
                assert_eq!(data(event), data(&events[0]), "{setting}");
            }
            assert_eq!(data(&events[0]).len(), VALUES.len(), "{setting}");
            // The first event of the log announces the table. A backfilled row does not announce another one.
            let definitions: Vec<Value> = delivery.definitions.iter().map(|(_, it)| it.json()).collect();
            assert_eq!(definitions.len(), 1, "{setting}: {definitions:#?}");
            let defined = &definitions[0]["control"]["table-def"]["columns"];
            for (column, (kind, ..)) in columns().iter().zip(VALUES) {
                let expected = match *kind {
                    "app.price" => json!({"type": "NUMERIC", "precision": 12, "scale": 2, "nullable": true}),
                    "app.smallest" | "information_schema.cardinal_number" => {
                        json!({"type": "INT32", "nullable": true})
                    }
                    "varchar(20)" => json!({"type": "STRING", "length": 20, "nullable": true}),
                    _ => json!({"type": "STRING", "nullable": true}),
                };
                assert_eq!(defined[column], expected, "{setting}: {kind}");
            }
        }
    })
    .await;
}

/// Values from Debian's server, which has a wal2json of its own.
///
/// Other scenarios use the servers of the versions.
async fn each_value_of_wal2json_has_the_form_of_its_type() {
    values(None).await;
    wal2json_values(None).await;
    dms_values(None).await;
}

/// pgoutput and wal2json send the OID of a type. test_decoding sends its name only, so it is not among them.
async fn a_type_that_was_renamed_or_replaced_keeps_its_form() {
    Plugin::each_of(&[Plugin::Pgoutput, Plugin::Wal2json], |plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(
                "create domain amount as int; create type mood as enum ('a', '{b}');
                 create domain moods as mood[]; create schema app;
                 create table t (id int primary key, a amount, m mood, l mood[], d moods);
                 insert into t values (1, 5, '{b}', '{a}', '{a}');
                 alter domain amount rename to former_amount; create domain amount as text;
                 alter table t alter a type amount using a::text;
                 alter type mood rename to _mood_2; alter type _mood_2 set schema app;
                 alter domain moods set schema app; create domain mood as int[];
                 alter table t alter m type mood using array[7];
                 insert into t values (2, '5', '{7}', '{a}', '{a}')",
            )
            .await;
        fixture.drain().await;
        let delivery = fixture.consume().await;
        let rows: Vec<Value> = delivery
            .of_table("public.t")
            .iter()
            .map(|event| event["after"].clone())
            .collect();
        let expected = [
            json!({"id": 1, "a": 5, "m": "{b}", "l": ["a"], "d": ["a"]}),
            json!({"id": 2, "a": "5", "m": [7], "l": ["a"], "d": ["a"]}),
        ];
        assert_eq!(rows, expected);
    })
    .await;
}

async fn an_array_of_a_dropped_type_stays_a_list() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        fixture
            .sql(
                "create type mood as enum ('a', 'b'); create domain price as numeric(12,2);
                 create table t (id int primary key, m mood, l mood[], p price);
                 insert into t values (1, 'a', '{a,null}', 1.5);
                 alter table t drop m, drop l, alter p type numeric(12,2);
                 drop type mood; drop domain price",
            )
            .await;
        fixture.drain().await;
        let delivery = fixture.consume().await;
        assert_eq!(
            delivery.of_table("public.t")[0]["after"],
            json!({"id": 1, "m": "a", "l": ["a", null], "p": "1.50"})
        );
    })
    .await;
}

/// No column of the catalog has one of the types then.
async fn values_of_a_dropped_table_keep_the_form_of_their_types() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::new(plugin).await;
        let create = "create domain small as int; create domain smaller as small;
            create domain raw as bytea; create domain smalls as smaller[];
            create table t (id int primary key, s smaller, r raw, l smalls, b bit(1), f bit(1)[]);
            create table u (id int primary key, s smaller)";
        fixture.sql(create).await;
        fixture
            .sql(
                r"insert into t values (1, 2, '\xbeef', '{3,null}', b'1', '{0,1}');
                 insert into u values (1, 2);
                 drop table t; alter table u alter s type text",
            )
            .await;
        fixture.drain().await;
        let delivery = fixture.consume().await;
        assert_eq!(
            delivery.of_table("public.t")[0]["after"],
            json!({"id": 1, "s": 2, "r": "vu8=", "l": [3, null], "b": true, "f": [false, true]})
        );
        assert_eq!(
            delivery.of_table("public.u")[0]["after"],
            json!({"id": 1, "s": 2})
        );
    })
    .await;
}

/// In these modes, a modifier decides the unit of a time.
///
/// It also decides the form of a numeric.
async fn a_value_keeps_the_digits_that_its_type_has_no_longer() {
    Plugin::each(|plugin| async move {
        let fixture = Fixture::builder(plugin)
            .env("TIME_PRECISION_MODE", "adaptive")
            .env("DECIMAL_HANDLING_MODE", "precise")
            .build()
            .await;
        fixture
            .sql(
                "create table t (id int primary key, a timestamp(6), b time, c numeric, d timestamp[],
                                 e timestamp);
                 create table u (id int primary key, a timestamp)",
            )
            .await;
        let (day, time) = ("2024-02-29", "12:34:56.789001");
        fixture
            .sql(&format!(
                "insert into t values
                   (1, '{day} {time}', '{time}', 1.2345, '{{{day} {time}}}', '{day} {time}');
                 insert into u values (1, '{day} {time}')"
            ))
            .await;
        fixture
            .sql(
                "alter table t alter a type timestamp(3), alter b type time(0), alter c type numeric(12,2),
                               alter d type timestamp(3)[], drop e;
                 alter table t add e timestamp(3);
                 drop table u; create table u (id int primary key, a timestamp(3))",
            )
            .await;
        fixture.drain().await;
        let delivery = fixture.consume().await;
        let micros = 1_709_210_096_789_001_i64;
        assert_eq!(
            delivery.of_table("public.t")[0]["after"],
            json!({"id": 1, "a": micros, "b": 45_296_789_001_i64, "c": {"scale": 4, "value": "MDk="},
                "d": [micros], "e": micros})
        );
        assert_eq!(
            delivery.of_table("public.u")[0]["after"],
            json!({"id": 1, "a": micros})
        );
    })
    .await;
}

/// The sessions of the function have a search path of their own. A condition may need another one.
async fn a_backfill_condition_uses_the_search_path_of_the_database() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(
            Fixture::builder(plugin),
            "create schema ext; grant usage on schema ext to public;
             create function ext.is_even(int) returns bool language sql immutable as 'select $1 % 2 = 0';
             create function public.is_large(int) returns bool language sql immutable as 'select $1 > 2';
             create table t (id int primary key); insert into t select generate_series(1, 6)",
        )
        .await;
        let alter = format!(
            "alter database \"{}\" set search_path = ext, public",
            fixture.database
        );
        fixture.sql(&alter).await;
        let event = json!({"action": "backfill", "wait": true, "tables": ["public.t"], "chunk_rows": 2,
            "where": "is_even(id) and is_large(id)"});
        run_backfill(&fixture, event).await;
        let delivery = fixture.consume().await;
        let ids: Vec<Value> = delivery
            .of_table("public.t")
            .iter()
            .map(|event| event["after"]["id"].clone())
            .collect();
        assert_eq!(ids, [4, 6]);
    })
    .await;
}

async fn a_search_path_with_types_of_built_in_names_does_not_stop_a_drain() {
    Plugin::each(|plugin| async move {
        let fixture = fixture_with_tables(
            Fixture::builder(plugin),
            "create schema odd; grant usage on schema odd to public;
             create domain odd.text as int; create domain odd.int4 as bytea;
             create function odd.lower(pg_catalog.text) returns int language sql as 'select 1';
             create table t (id int primary key, what text)",
        )
        .await;
        let (role, database) = (REPLUSER.0, &fixture.database);
        let path = "search_path = odd, pg_catalog";
        fixture
            .sql(&format!("alter role {role} in database {database} set {path}"))
            .await;
        fixture.sql("insert into t values (1, 'a')").await;
        fixture.drain().await;
        assert_eq!(fixture.compare(&["t"]).await.changes().len(), 1);
    })
    .await;
}
