//! The fuzzer's checks (`../fuzz`) on its corpus and the densest inputs.
//!
//! The corpus holds the inputs from which fuzzing starts, and inputs that fuzzing found. The densest inputs
//! allocate the most bytes for each byte of input. A fuzzer would find those only by chance.

use std::fs;
use std::path::Path;

use drain::plugin::Plugin;

#[path = "../fuzz/src/checks/mod.rs"]
pub mod checks;

/// Names and bytes of the inputs in a folder.
fn inputs(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files
        .map(|file| {
            let file = file.expect("a folder lists its files");
            let input = fs::read(file.path()).expect("an input can be read");
            (file.file_name().to_string_lossy().into_owned(), input)
        })
        .collect()
}

fn check_rows(plugin: Plugin) {
    let inputs = inputs(&format!("fuzz/corpus/{plugin}"));
    // Two kinds of input may be refused: inputs that the fuzzer found, and bytes that are not text, from a
    // database with the encoding SQL_ASCII.
    let must_decode = |name: &str| !name.ends_with("no-text") && !name.starts_with("found-");
    let mut decoded = 0;
    for (name, input) in inputs {
        // The stored options, then other modes of the envelopes, with and without the catalog.
        let first = input.first().copied().unwrap_or_default();
        for options in [first, 0x2A, 0x7C, 0x9A, 0xE0, 0x01, 0x9B] {
            println!("{name}, {options:#x}");
            let input = [&[options], input.get(1..).unwrap_or_default()].concat();
            let refused = checks::rows(plugin, &input);
            assert!(refused == 0 || !must_decode(&name), "{refused} rows of {name}");
        }
        decoded += usize::from(must_decode(&name));
    }
    assert!(decoded >= 39, "{decoded}");
    print_largest_factors();
}

fn print_largest_factors() {
    for (work, peak, total) in checks::largest_factors() {
        println!("{work}: {peak} bytes at one time, {total} in all, for one byte of input");
    }
}

#[test]
fn rows_of_pgoutput_are_decoded_or_refused() {
    check_rows(Plugin::Pgoutput);
}

#[test]
fn rows_of_wal2json_are_decoded_or_refused() {
    check_rows(Plugin::Wal2json);
}

#[test]
fn rows_of_test_decoding_are_decoded_or_refused() {
    check_rows(Plugin::TestDecoding);
}

#[test]
fn checkpoints_are_read_or_refused() {
    let inputs = inputs("fuzz/corpus/checkpoint");
    assert!(inputs.len() >= 6);
    for (name, input) in inputs {
        assert!(checks::checkpoint(&input) || name.starts_with("found-"), "{name}");
    }
}

#[test]
fn events_are_read_or_refused() {
    let inputs = [inputs("fuzz/corpus/event"), inputs("../../events")].concat();
    assert!(inputs.len() >= 12);
    inputs.iter().for_each(|(_, input)| checks::event(input));
}

/// The rows in the input format of `checks::rows`.
fn input(rows: &[Vec<u8>]) -> Vec<u8> {
    let mut input = vec![0];
    for row in rows {
        input.extend(
            u16::try_from(row.len())
                .expect("a row is shorter than 64 KiB")
                .to_be_bytes(),
        );
        input.extend(row);
    }
    input
}

#[test]
fn the_densest_rows_of_pgoutput_allocate_within_the_bound() {
    // Just above 4,096: the last growth of a list then doubles its memory.
    let columns = 4100u16;
    // A table whose columns have empty names, a row of nulls, and a truncate that repeats the table.
    let table = [b"R\0\0\x40\0s\0t\0d".as_slice(), &columns.to_be_bytes()].concat();
    let column = b"\x01\0\0\0\0\x17\xff\xff\xff\xff".repeat(columns.into());
    let nulls = [
        b"N".as_slice(),
        &columns.to_be_bytes(),
        &b"n".repeat(columns.into()),
    ]
    .concat();
    let insert = [b"I\0\0\x40\0".as_slice(), &nulls].concat();
    let truncate = [b"T\0\0\x10\0\0".as_slice(), &b"\0\0\x40\0".repeat(4096)].concat();
    let types = (0..2000u32).map(|oid| [b"Y".as_slice(), &oid.to_be_bytes(), b"\0\0"].concat());
    let tables = (0..2000u32).map(|oid| [b"R".as_slice(), &oid.to_be_bytes(), b"\0\0d\0\0"].concat());
    checks::rows(
        Plugin::Pgoutput,
        &input(&[[table, column].concat(), insert, truncate]),
    );
    checks::rows(Plugin::Pgoutput, &input(&types.chain(tables).collect::<Vec<_>>()));
    print_largest_factors();
}

#[test]
fn the_densest_rows_of_wal2json_allocate_within_the_bound() {
    let row = |action: &str, fields: &str, field: &str, count| {
        let list = vec![field; count].join(",");
        format!(r#"{{"action":"{action}","schema":"","table":"","{fields}":[{list}]}}"#).into_bytes()
    };
    for count in [1100, 1600, 1601, 2100] {
        checks::rows(
            Plugin::Wal2json,
            &input(&[row("I", "columns", r#"{"name":""}"#, count)]),
        );
        checks::rows(
            Plugin::Wal2json,
            &input(&[row("T", "pk", r#"{"name":""}"#, count)]),
        );
        checks::rows(
            Plugin::Wal2json,
            &input(&[row("D", "identity", r#"{"name":"","value":1}"#, count)]),
        );
    }
    let types = row("I", "columns", r#"{"name":"","type":""""}"#, 1600);
    checks::rows(Plugin::Wal2json, &input(&[types]));
    for scale in [1000, 20_000] {
        let number = format!(r#"{{"name":"","type":"numeric(1,{scale})","value":1}}"#);
        let mut input = input(&[row("I", "columns", &number, 1100)]);
        // This option writes decimals as the bytes of their unscaled value.
        input[0] = 0x08;
        checks::rows(Plugin::Wal2json, &input);
    }
    print_largest_factors();
}

#[test]
fn the_densest_rows_of_test_decoding_allocate_within_the_bound() {
    let columns = " []:".repeat(8200);
    let tables = vec!["."; 8200].join(", ");
    for row in [
        format!("table .: INSERT:{columns}"),
        format!("table .: DELETE:{columns}"),
        format!("table .: UPDATE: old-key:{0} new-tuple:{0}", " []:".repeat(4100)),
        format!("table {tables}: TRUNCATE:"),
        format!("table .: INSERT: a[]:'{}'", "''".repeat(30_000)),
    ] {
        checks::rows(Plugin::TestDecoding, &input(&[row.into_bytes()]));
    }
    print_largest_factors();
}

#[test]
fn the_densest_checkpoints_allocate_within_the_bound() {
    let checkpoint = |others: String| {
        format!(
            r#"{{"version":1,"system_identifier":"7","timeline":1,"database":"d","slot":"s",
            "plugin":"pgoutput","commit_end":"0/1","updated_at":"",{others}}}"#
        )
    };
    let tables: Vec<String> = (0..2100).map(|n| format!(r#""{n}":{{"":1}}"#)).collect();
    let fields: Vec<String> = (0..2100).map(|n| format!(r#""{n}":0"#)).collect();
    for others in [
        format!(r#""x":[{}]"#, vec!["0"; 8200].join(",")),
        format!(r#""x":[{}]"#, vec![r#"{"":0}"#; 4100].join(",")),
        format!(r#""x":[{}]"#, vec!["[]"; 8200].join(",")),
        format!(
            r#""progress":{{"xid":1,"commit_end":"0/1","commit_time":null,"lsn":"0/1","rows_at_lsn":1,
            "rows":1,"hash":"","counts":{{"events":1,"tables":{{{}}}}}}}"#,
            tables.join(",")
        ),
        fields.join(","),
    ] {
        assert!(checks::checkpoint(checkpoint(others).as_bytes()));
    }
    print_largest_factors();
}
