//! Reader of `captured.txt`: a catalog, and the rows and events of statements.

use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;
use crate::catalog::{Catalog, CatalogColumn, CatalogTable, CatalogType, TypeForm};
use crate::plugin::Plugin;

/// Statement of `captured.txt`.
pub(in crate::decode) struct CapturedStatement {
    pub(in crate::decode) statement: &'static str,
    pub(in crate::decode) rows: Vec<(Plugin, Lsn, Vec<u8>)>,
    pub(super) expected: Vec<(Option<Plugin>, String)>,
}

/// The text with each repetition `«a*9»` replaced by `aaaaaaaaa`.
fn expanded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('«') {
        let (run, after) = after.split_once('»').unwrap();
        let (piece, count) = run.rsplit_once('*').unwrap();
        out += before;
        out += &piece.repeat(count.parse().unwrap());
        rest = after;
    }
    out + rest
}

fn decode_hex(digits: &str) -> Vec<u8> {
    hex::decode(expanded(digits)).unwrap()
}

/// The type of a line.
///
/// A line has OID, schema, name and printed name, then the base of a domain and the element of an array.
fn catalog_type(line: &str) -> CatalogType {
    type TypeLine = (
        u32,
        String,
        String,
        String,
        Option<(u32, i32, String)>,
        Option<(u32, u8)>,
    );
    let (oid, schema, name, printed, base, element): TypeLine = serde_json::from_str(line).unwrap();
    CatalogType {
        oid,
        schema,
        name,
        printed,
        extension: None,
        form: match (base, element) {
            (Some((base, modifier, base_name)), _) => TypeForm::Domain {
                base,
                modifier,
                base_name,
            },
            (None, Some((element, delimiter))) => TypeForm::Array { element, delimiter },
            (None, None) => TypeForm::Other,
        },
    }
}

/// The catalog after the last statement, and the statements.
pub(in crate::decode) fn captured() -> (Catalog, Vec<CapturedStatement>) {
    let (mut catalog, mut statements) = (Catalog::default(), Vec::<CapturedStatement>::new());
    for line in include_str!("captured.txt")
        .lines()
        .filter(|line| !line.is_empty())
    {
        let (word, rest) = line.split_once(' ').unwrap();
        match word {
            "type" => catalog.insert_type(catalog_type(rest)),
            "table" => {
                type Names = Vec<String>;
                type Columns = Vec<(String, u32, i32, String, bool)>;
                type TableLine = (String, String, Names, Names, Columns);
                let (schema, name, key, primary_key, columns): TableLine =
                    serde_json::from_str(rest).unwrap();
                let column = |(name, type_oid, modifier, type_name, toastable)| CatalogColumn {
                    name,
                    type_oid,
                    modifier,
                    type_name,
                    toastable,
                };
                let columns = columns.into_iter().map(column).collect();
                let table = CatalogTable {
                    key,
                    primary_key,
                    columns,
                    ..CatalogTable::default()
                };
                catalog.insert(TableName::new(schema, name), table);
            }
            "#" => statements.push(CapturedStatement {
                statement: rest,
                rows: Vec::new(),
                expected: Vec::new(),
            }),
            _ => {
                let statement = statements.last_mut().unwrap();
                if let Some(plugin) = word.strip_prefix('=') {
                    statement.expected.push((plugin.parse().ok(), expanded(rest)));
                    continue;
                }
                let (lsn, data) = rest.split_once(' ').unwrap();
                let plugin: Plugin = word.parse().unwrap();
                let data = match (plugin, data.strip_prefix("hex ")) {
                    (Plugin::Pgoutput, _) => decode_hex(data),
                    (_, Some(digits)) => decode_hex(digits),
                    _ => expanded(data).replace('↵', "\n").into_bytes(),
                };
                add_oid(&mut catalog, &data);
                statement.rows.push((plugin, lsn.parse().unwrap(), data));
            }
        }
    }
    (catalog, statements)
}

/// Copies the OID of a pgoutput description to the catalog's table.
fn add_oid(catalog: &mut Catalog, row: &[u8]) {
    let Some((oid, names)) = row.strip_prefix(b"R").and_then(|row| row.split_first_chunk()) else {
        return;
    };
    let names = String::from_utf8_lossy(names);
    let mut names = names.split('\0');
    let name = TableName::new(names.next().unwrap(), names.next().unwrap());
    if let Some(table) = catalog.table(&name).cloned() {
        let oid = u32::from_be_bytes(*oid);
        catalog.insert(name, CatalogTable { oid, ..table });
    }
}

/// Rows of one plugin for one statement.
///
/// The statement is the first one that starts with `start`.
pub(in super::super) fn rows_of(plugin: Plugin, start: &str) -> Vec<(Lsn, Vec<u8>)> {
    let (_, statements) = captured();
    let mut found = statements
        .into_iter()
        .filter(|captured| captured.statement.starts_with(start));
    let rows = found.next().unwrap().rows;
    rows.into_iter()
        .filter(|(of, ..)| *of == plugin)
        .map(|(_, lsn, data)| (lsn, data))
        .collect()
}
