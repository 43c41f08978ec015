use proptest::prelude::*;

use super::super::Decoder;
use super::super::short_row::MAX_SYNTAX;
use super::super::tests::captured;
use super::*;
use crate::base::lsn::Lsn;
use crate::catalog::Catalog;
use crate::change::{Change, Datum, DecodedRow, MessageParts, Relation, Tuple};

/// Bounds with which every value is kept.
const ALL: KeptBytes = KeptBytes {
    value: usize::MAX,
    row: usize::MAX,
};

/// Bounds with which values of at most `value` bytes are kept.
fn values_of(value: usize) -> KeptBytes {
    KeptBytes { value, row: 1 << 20 }
}

/// The shortened row, read in slices whose sizes repeat.
fn shortened(plugin: Plugin, kept: KeptBytes, data: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut shortener = RowShortener::new(plugin, data.len(), kept);
    let (mut rest, mut sizes) = (data, sizes.iter().cycle());
    while !rest.is_empty() {
        let (slice, more) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
        shortener.push(slice);
        rest = more;
    }
    shortener.finish()
}

/// Whether a captured row is of a kind that can be large.
fn can_be_large(plugin: Plugin, data: &[u8]) -> bool {
    let tag = plugin.change_tag();
    let byte = data
        .get(tag.byte_number as usize - 1)
        .copied()
        .unwrap_or_default();
    let is_truncate = match plugin {
        Plugin::Pgoutput => byte == b'T',
        Plugin::Wal2json => byte == b'T',
        Plugin::TestDecoding => {
            data.ends_with(b"TRUNCATE: (no-flags)") || data.windows(9).any(|w| w == b"TRUNCATE:")
        }
    };
    tag.bytes.iter().any(|bytes| *bytes == [byte]) && !is_truncate
}

/// The images of a change and its relation.
fn images<'c>(change: &'c Change<'_>) -> Option<(&'c Relation, Vec<&'c Tuple<'c>>)> {
    match change {
        Change::Insert { relation, new } => Some((relation, vec![new])),
        Change::Update { relation, old, new } => Some((relation, old.iter().chain([new]).collect())),
        Change::Delete { relation, old } => Some((relation, vec![old])),
        Change::Truncate { .. } | Change::Message(_) => None,
    }
}

/// Checks that a shortened change only lacks some values.
///
/// Everything else must equal the whole change. Returns the number of values that are missing. It is 1 for a
/// row whose key is too large, because such a row is not compared.
fn assert_shortened(short: &DecodedRow<'_>, whole: &DecodedRow<'_>) -> usize {
    let (DecodedRow::Change(short), DecodedRow::Change(whole)) = (short, whole) else {
        assert_eq!(short, whole);
        return 0;
    };
    let (Some((relation, short)), Some((whole_relation, whole))) = (images(short), images(whole)) else {
        assert_eq!(short, whole);
        return 0;
    };
    assert_eq!(relation, whole_relation);
    let is_lost = |tuple: &Tuple<'_>| {
        let keys = relation
            .columns
            .iter()
            .zip(tuple)
            .filter(|(column, _)| column.key);
        keys.into_iter()
            .any(|(_, datum)| matches!(datum, Datum::Oversize { .. }))
    };
    // A row whose key is too large is not compared.
    if short.iter().any(|tuple| is_lost(tuple)) {
        return 1;
    }
    assert_eq!(short.len(), whole.len());
    let mut lost = 0;
    for (short, whole) in short.into_iter().zip(whole) {
        assert_eq!(short.len(), whole.len());
        for (short, whole) in short.iter().zip(whole) {
            match short {
                Datum::Oversize { bytes } => {
                    assert!(
                        matches!(whole, Datum::Text(text) if text.len() <= bytes + 2),
                        "{whole:?}"
                    );
                    lost += 1;
                }
                short => assert_eq!(short, whole),
            }
        }
    }
    lost
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The shortened row equals the row if every value is kept.
    ///
    /// The sizes of the slices make no difference.
    #[test]
    fn captured_rows_lose_only_values_that_are_too_large(
        sizes in prop::collection::vec(1usize..400, 1..5),
        most in 30usize..80,
    ) {
        let (catalog, statements) = captured();
        let mut lost = [0; 3];
        for statement in &statements {
            let (mut whole, mut short) = (Plugin::ALL.map(Decoder::new), Plugin::ALL.map(Decoder::new));
            for (plugin, lsn, data) in &statement.rows {
                let index = Plugin::ALL.iter().position(|it| it == plugin).unwrap();
                let item = whole[index].decode(&catalog, *lsn, data).unwrap();
                if !can_be_large(*plugin, data) {
                    short[index].decode(&catalog, *lsn, data).unwrap();
                    continue;
                }
                prop_assert_eq!(&shortened(*plugin, ALL, data, &sizes), data);
                let row = shortened(*plugin, values_of(most), data, &sizes);
                if let DecodedRow::Change(Change::Message(_)) | DecodedRow::Message(_) = item {
                    continue;
                }
                let text = String::from_utf8_lossy(&row).into_owned();
                let shortened = short[index].decode(&catalog, *lsn, &row);
                let shortened = shortened.unwrap_or_else(|error| panic!("{error}: {text}"));
                lost[index] += assert_shortened(&shortened, &item);
            }
        }
        prop_assert!(lost.iter().all(|lost| *lost > 10), "{:?}", lost);
    }

    /// A row that ends too early is refused, wherever it ends.
    #[test]
    fn a_cut_row_is_refused(cut in 0.0f64..1.0, most in 30usize..80) {
        let (catalog, statements) = captured();
        for statement in &statements {
            let mut decoders = Plugin::ALL.map(Decoder::new);
            for (plugin, lsn, data) in &statement.rows {
                let index = Plugin::ALL.iter().position(|it| it == plugin).unwrap();
                decoders[index].decode(&catalog, *lsn, data).unwrap();
                if !can_be_large(*plugin, data) {
                    continue;
                }
                let end = (data.len() as f64 * cut) as usize;
                let whole = decoders[index].decode(&catalog, *lsn, &data[..end]).is_ok();
                let row = shortened(*plugin, values_of(most), &data[..end], &[100]);
                let is_refused = decoders[index].decode(&catalog, *lsn, &row).is_err();
                prop_assert!(whole || is_refused, "{:?}", statement.statement);
            }
        }
    }
}

/// Rows of a plugin that insert texts into `t`. The plugin's description of the table precedes them.
fn insert(plugin: Plugin, texts: &[String]) -> Vec<Vec<u8>> {
    let columns = (b'a'..).map(char::from).zip(texts);
    match plugin {
        Plugin::Pgoutput => {
            let count = u16::try_from(texts.len()).unwrap().to_be_bytes();
            let mut relation = [&b"R\0\0\0\x07public\0t\0d"[..], &count].concat();
            let mut row = [&b"I\0\0\0\x07N"[..], &count].concat();
            for (name, text) in columns {
                relation.extend_from_slice(&[0, name as u8, 0, 0, 0, 0, 25, 0xFF, 0xFF, 0xFF, 0xFF]);
                row.push(b't');
                row.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                row.extend_from_slice(text.as_bytes());
            }
            vec![relation, row]
        }
        Plugin::Wal2json => {
            let columns: Vec<String> = columns
                .map(|(name, text)| format!(r#"{{"name":"{name}","type":"text","value":"{text}"}}"#))
                .collect();
            let row = r#"{"action":"I","schema":"public","table":"t","columns":["#;
            vec![format!("{row}{}],\"pk\":[]}}", columns.join(",")).into_bytes()]
        }
        Plugin::TestDecoding => {
            let columns: Vec<String> = columns
                .map(|(name, text)| format!(" {name}[text]:'{text}'"))
                .collect();
            vec![format!("table public.t: INSERT:{}", columns.concat()).into_bytes()]
        }
    }
}

#[test]
fn the_largest_values_are_replaced_until_the_rest_is_small_enough() {
    let texts = [300, 500, 1200, 500, 400, 200].map(|length| "x".repeat(length));
    let kept = KeptBytes {
        value: 1000,
        row: 1300,
    };
    for plugin in Plugin::ALL {
        let mut decoder = Decoder::new(plugin);
        let mut rows = insert(plugin, &texts);
        let row = shortened(plugin, kept, &rows.pop().unwrap(), &[7, 1000]);
        if let Some(relation) = rows.pop() {
            decoder.decode(&Catalog::default(), Lsn(1), &relation).unwrap();
        }
        let DecodedRow::Change(Change::Insert { new, .. }) =
            decoder.decode(&Catalog::default(), Lsn(1), &row).unwrap()
        else {
            panic!();
        };
        let lost: Vec<bool> = new
            .iter()
            .map(|datum| matches!(datum, Datum::Oversize { .. }))
            .collect();
        assert_eq!(lost, [false, true, true, false, false, false], "{plugin}");
        for (datum, text) in new.iter().zip(&texts) {
            assert!(*datum == Datum::Text(text.into()) || matches!(datum, Datum::Oversize { .. }));
        }
    }
}

/// Rows of a plugin that update the texts of `t`. The plugin's description of the table precedes them.
fn update(plugin: Plugin, old: &[String], new: &[String]) -> Vec<Vec<u8>> {
    match plugin {
        Plugin::Pgoutput => {
            let (mut old, new) = (insert(plugin, old), insert(plugin, new));
            let (old, relation) = (old.pop().unwrap(), old.pop().unwrap());
            let image = |row: &[u8]| row.get(6..).unwrap().to_vec();
            let row = [b"U\0\0\0\x07O", &image(&old)[..], b"N", &image(&new[1])].concat();
            vec![relation, row]
        }
        Plugin::Wal2json => {
            let columns = |texts: &[String]| {
                let columns = (b'a'..).map(char::from).zip(texts);
                let columns = columns
                    .map(|(name, text)| format!(r#"{{"name":"{name}","type":"text","value":"{text}"}}"#));
                columns.collect::<Vec<_>>().join(",")
            };
            let (new, old) = (columns(new), columns(old));
            let row = r#"{"action":"U","schema":"public","table":"t","columns":["#;
            vec![format!(r#"{row}{new}],"identity":[{old}],"pk":[]}}"#).into_bytes()]
        }
        Plugin::TestDecoding => {
            let columns = |texts: &[String]| {
                let columns = (b'a'..).map(char::from).zip(texts);
                let columns = columns.map(|(name, text)| format!(" {name}[text]:'{text}'"));
                columns.collect::<String>()
            };
            let row = "table public.t: UPDATE: old-key:";
            vec![format!("{row}{} new-tuple:{}", columns(old), columns(new)).into_bytes()]
        }
    }
}

/// A new value is kept even if each old value is smaller.
#[test]
fn values_of_the_old_row_are_replaced_first() {
    let texts = |lengths: [usize; 4]| lengths.map(|length| "x".repeat(length));
    let kept = KeptBytes {
        value: 100_000,
        row: 131_000,
    };
    let (large, key) = (texts([300, 40_000, 50_000, 45_000]), texts([300, 0, 0, 0]));
    let cases = [
        (
            &large,
            texts([300, 90_000, 0, 0]),
            [[false, false, true, true], [false; 4]],
        ),
        // The first value may be the key, so it is kept.
        (
            &key,
            texts([300, 90_000, 90_000, 90_000]),
            [[false; 4], [false, true, true, false]],
        ),
    ];
    for (plugin, (old, new, expected)) in Plugin::ALL
        .iter()
        .flat_map(|plugin| cases.iter().map(move |case| (*plugin, case)))
    {
        let mut decoder = Decoder::new(plugin);
        let mut rows = update(plugin, *old, new);
        let row = shortened(plugin, kept, &rows.pop().unwrap(), &[7, 1000]);
        if let Some(relation) = rows.pop() {
            decoder.decode(&Catalog::default(), Lsn(1), &relation).unwrap();
        }
        let item = decoder.decode(&Catalog::default(), Lsn(1), &row).unwrap();
        let DecodedRow::Change(change) = item else {
            panic!()
        };
        let (_, images) = images(&change).unwrap();
        let is_lost = |datum: &Datum<'_>| matches!(datum, Datum::Oversize { .. });
        let lost: Vec<Vec<bool>> = images
            .into_iter()
            .map(|tuple| tuple.iter().map(is_lost).collect())
            .collect();
        assert_eq!(lost, *expected, "{plugin}");
    }
}

/// The row of a logical message.
fn message_row(plugin: Plugin, prefix: &str, content: &str) -> Vec<u8> {
    let length = content.len();
    match plugin {
        Plugin::Pgoutput => {
            let length = u32::try_from(length).unwrap().to_be_bytes();
            let head: &[u8] = b"M\x01\0\0\0\0\0\0\0\x09";
            [head, prefix.as_bytes(), &[0], &length, content.as_bytes()].concat()
        }
        Plugin::Wal2json => {
            let row = r#"{"action":"M","xid":1,"transactional":true,"prefix":"#;
            format!(r#"{row}"{prefix}","content":"{content}"}}"#).into_bytes()
        }
        Plugin::TestDecoding => {
            format!("message: transactional: 1 prefix: {prefix}, sz: {length} content:{content}").into_bytes()
        }
    }
}

#[test]
fn a_message_loses_the_parts_that_are_too_large() {
    let small = "a, sz: 3 content:bc";
    let large = ", sz: 1 content:".repeat(20);
    for plugin in Plugin::ALL {
        for (prefix, content) in [
            (small, &*large),
            (&*large, small),
            (&*large, &*large),
            (small, small),
        ] {
            let row = message_row(plugin, prefix, content);
            let row = shortened(plugin, values_of(200), &row, &[33, 5]);
            let mut decoder = Decoder::new(plugin);
            let item = decoder.decode(&Catalog::default(), Lsn(1), &row).unwrap();
            let DecodedRow::Change(Change::Message(message)) = item else {
                panic!();
            };
            let omitted = MessageParts {
                prefix: prefix == large,
                content: content == large,
            };
            let kept = |part: &str| {
                if part == large {
                    String::new()
                } else {
                    part.to_owned()
                }
            };
            assert_eq!(message.omitted, omitted, "{plugin}");
            assert_eq!(message.prefix, kept(prefix), "{plugin}");
            assert_eq!(message.content.as_ref(), kept(content).as_bytes(), "{plugin}");
        }
    }
}

#[test]
fn a_malformed_row_is_refused_in_bounded_memory() {
    for plugin in Plugin::ALL {
        for start in [
            "",
            "table a.b: INSERT: c",
            "{\"a",
            "I\0\0\0\x01N\0\x01x",
            "M\0",
            "{\"value\":\"",
        ] {
            let mut shortener = RowShortener::new(plugin, usize::MAX, values_of(1000));
            shortener.push(start.as_bytes());
            for _ in 0..200 {
                shortener.push(&[b' '; 100_000]);
                assert!(shortener.pending.len() < 1 << 20, "{plugin} {start}");
                assert!(
                    shortener.row.bytes.len() < MAX_SYNTAX + (1 << 20),
                    "{plugin} {start}"
                );
            }
            let row = shortener.finish();
            assert!(row.is_empty(), "{plugin} {start}: {} bytes", row.len());
        }
    }
}
