//! Output plugins: their names, their options and how their rows begin.

use std::fmt;
use std::str::FromStr;

use crate::base::table_name::quoted;
use crate::rules::pattern::TablePattern;

/// An output plugin that Spillway reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plugin {
    /// PostgreSQL's own plugin, and the best choice: exact values and the fewest bytes.
    Pgoutput,
    /// wal2json 2.5 or later, read in its format version 2.
    Wal2json,
    /// Readable text, for troubleshooting.
    TestDecoding,
}

/// Options that a peek passes to the plugin: a name, its value, the next name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginOptions {
    /// Options that every version of the plugin supports.
    pub common: Vec<String>,
    /// Options that only newer versions of the plugin support.
    ///
    /// If the plugin refuses them, the peek is repeated without them.
    pub newer: Vec<String>,
}

impl PluginOptions {
    /// The warning if the plugin does not support the newer options.
    pub const WITHOUT_NEWER: &str = "wal2json is older than 2.6 and writes NaN and Infinity as null: use \
                                     pgoutput where they occur";
}

/// Byte that distinguishes the row of a change from every other row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeTag {
    /// Number of the byte in the row, counted from 1.
    ///
    /// SQL's `substr` also counts from 1.
    pub byte_number: i32,
    /// The values of the byte in the row of a change.
    pub bytes: &'static [&'static [u8]],
}

impl Plugin {
    /// Every plugin, the best choice first.
    pub const ALL: [Plugin; 3] = [Plugin::Pgoutput, Plugin::Wal2json, Plugin::TestDecoding];

    /// The names of all plugins, for errors.
    pub const NAMES: &str = "pgoutput, wal2json or test_decoding";

    /// The reason why some servers have no watermarks: see [`Plugin::sends_messages`].
    pub const WITHOUT_MESSAGES: &str =
        "pgoutput sends no logical messages before PostgreSQL 14, and so no watermark";

    /// The plugin's name in PostgreSQL.
    pub fn name(self) -> &'static str {
        match self {
            Plugin::Pgoutput => "pgoutput",
            Plugin::Wal2json => "wal2json",
            Plugin::TestDecoding => "test_decoding",
        }
    }

    /// Whether the plugin sends logical messages on a server of this `server_version_num`.
    ///
    /// pgoutput sends them since PostgreSQL 14 (release notes of 14).
    pub fn sends_messages(self, server_version: i32) -> bool {
        self != Plugin::Pgoutput || server_version >= 140_000
    }

    /// Whether the plugin sends the tables of publications.
    ///
    /// The publications must exist. The other plugins do not use publications.
    pub fn reads_publications(self) -> bool {
        self == Plugin::Pgoutput
    }

    /// Whether the plugin converts texts to UTF-8 from any encoding.
    pub fn converts_encoding(self) -> bool {
        self == Plugin::Pgoutput
    }

    /// Whether the plugin sends rows of other relations than tables.
    ///
    /// Such relations are materialized views and system tables. pgoutput sends only rows of published
    /// tables.
    pub fn sends_other_relations(self) -> bool {
        self != Plugin::Pgoutput
    }

    /// Whether every server has the plugin.
    pub fn is_built_in(self) -> bool {
        self == Plugin::Pgoutput
    }

    /// Whether a begin row contains the end of the commit record.
    pub fn begins_with_commit_end(self) -> bool {
        self == Plugin::Wal2json
    }

    /// The first bytes of a row that commits a transaction.
    ///
    /// No other row begins with them.
    pub fn commit_prefix(self) -> &'static [u8] {
        match self {
            Plugin::Pgoutput => b"C",
            Plugin::Wal2json => br#"{"action":"C""#,
            Plugin::TestDecoding => b"COMMIT ",
        }
    }

    /// The byte that distinguishes a change's row from all other rows.
    pub fn change_tag(self) -> ChangeTag {
        match self {
            Plugin::Pgoutput => ChangeTag {
                byte_number: 1,
                bytes: &[b"I", b"U", b"D", b"T", b"M"],
            },
            // {"action":"I"
            Plugin::Wal2json => ChangeTag {
                byte_number: 12,
                bytes: &[b"I", b"U", b"D", b"T", b"M"],
            },
            // "table …" and "message: …"
            Plugin::TestDecoding => ChangeTag {
                byte_number: 1,
                bytes: &[b"t", b"m"],
            },
        }
    }

    /// The options of a peek. pgoutput needs `publications`, wal2json filters by `tables`.
    pub fn options(
        self,
        server_version: i32,
        publications: &[String],
        tables: &[TablePattern],
    ) -> PluginOptions {
        match self {
            Plugin::Pgoutput => self.pgoutput_options(server_version, publications),
            Plugin::Wal2json => wal2json_options(tables),
            Plugin::TestDecoding => PluginOptions {
                common: flattened(&[("include-xids", "true"), ("include-timestamp", "true")]),
                newer: Vec::new(),
            },
        }
    }

    fn pgoutput_options(self, server_version: i32, publications: &[String]) -> PluginOptions {
        let names: Vec<String> = publications.iter().map(|name| quoted(name)).collect();
        let mut common = flattened(&[("proto_version", "1"), ("publication_names", &names.join(","))]);
        if self.sends_messages(server_version) {
            common.extend(flattened(&[("messages", "true")]));
        }
        PluginOptions {
            common,
            newer: Vec::new(),
        }
    }
}

fn wal2json_options(tables: &[TablePattern]) -> PluginOptions {
    let mut common = flattened(&[
        ("format-version", "2"),
        ("include-transaction", "true"),
        ("include-xids", "true"),
        ("include-timestamp", "true"),
        ("include-lsn", "true"),
        ("include-types", "true"),
        ("include-type-oids", "true"),
        ("include-typmod", "true"),
        ("include-domain-data-type", "true"),
        ("include-pk", "true"),
    ]);
    if !tables.is_empty() {
        let patterns: Vec<String> = tables.iter().map(TablePattern::to_wal2json).collect();
        common.extend(flattened(&[("add-tables", &patterns.join(","))]));
    }
    PluginOptions {
        common,
        // Without this option wal2json sends NaN and Infinity as null. wal2json 2.6 introduced it.
        newer: flattened(&[("numeric-data-types-as-string", "true")]),
    }
}

/// The options as one list: a name, its value, the next name.
fn flattened(options: &[(&str, &str)]) -> Vec<String> {
    let names_and_values = options.iter().flat_map(|(name, value)| [*name, *value]);
    names_and_values.map(str::to_owned).collect()
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Plugin {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Plugin::ALL
            .into_iter()
            .find(|plugin| plugin.name() == name)
            .ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_every_plugin() {
        assert!(
            Plugin::ALL
                .iter()
                .all(|plugin| Plugin::NAMES.contains(plugin.name()))
        );
    }

    #[test]
    fn pgoutput_sends_messages_from_postgresql_14_on() {
        let options = |version| Plugin::Pgoutput.options(version, &["a\"b".into()], &[]).common;
        assert_eq!(
            options(130_000),
            ["proto_version", "1", "publication_names", "\"a\"\"b\""]
        );
        assert!(options(140_000).ends_with(&["messages".into(), "true".into()]));
    }

    #[test]
    fn wal2json_sends_only_the_configured_tables() {
        let tables = ["public.*".parse().unwrap(), "a\\.b.c d".parse().unwrap()];
        let options = Plugin::Wal2json.options(150_000, &[], &tables);
        assert!(
            options
                .common
                .ends_with(&["add-tables".into(), "public.*,a\\.b.c\\ d".into()])
        );
        assert_eq!(options.newer, ["numeric-data-types-as-string", "true"]);
    }
}
