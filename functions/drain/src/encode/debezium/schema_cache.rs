//! Cache of the schemas of rows, by table.
//!
//! A schema is longer than most rows. It depends only on the columns of its table, and on whether the key is
//! required. So each schema is composed once, and then copied to the beginning of each event.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::table_name::TableName;
use crate::change::Relation;

/// Most bytes of all cached schemas.
const MAX_CACHED_BYTES: usize = 8 << 20;

/// Cache of the texts with which the events of each table begin. Clones share it.
#[derive(Clone, Default)]
pub struct SchemaCache(Arc<Mutex<CachedSchemas>>);

/// Prints only the name of the type.
///
/// `Envelope::settings_text` contains this text, and must not change when a schema is added to the cache.
impl fmt::Debug for SchemaCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SchemaCache")
    }
}

#[derive(Debug, Default)]
struct CachedSchemas {
    tables: HashMap<TableName, Vec<CachedSchema>>,
    /// Bytes of all texts.
    bytes: usize,
}

/// Schema of one definition of a table.
#[derive(Debug)]
struct CachedSchema {
    relation: Arc<Relation>,
    /// Whether the columns of the key are required.
    has_keys: bool,
    text: Box<[u8]>,
}

impl SchemaCache {
    /// Appends the schema of a table's rows.
    ///
    /// Also appends the beginning of the payload. `compose` appends the same text, and is called only if the
    /// cache lacks it. With `has_keys`, the columns of the key are required.
    pub(super) fn append(
        &self,
        out: &mut Vec<u8>,
        relation: &Arc<Relation>,
        has_keys: bool,
        compose: impl FnOnce(&mut Vec<u8>),
    ) {
        // A panic elsewhere cannot leave the schemas half changed: a text is composed before it is inserted.
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = cache.tables.get(&relation.table).into_iter().flatten();
        let mut known = known.filter(|schema| schema.has_keys == has_keys);
        if let Some(schema) = known.find(|schema| schema.relation.has_same_columns(relation)) {
            out.extend_from_slice(&schema.text);
            return;
        }
        let start = out.len();
        compose(out);
        cache.insert(relation, has_keys, &out[start..]);
    }
}

impl CachedSchemas {
    fn insert(&mut self, relation: &Arc<Relation>, has_keys: bool, text: &[u8]) {
        // The schemas of the tables in use are composed again with their next rows.
        if self.bytes + text.len() > MAX_CACHED_BYTES {
            *self = CachedSchemas::default();
        }
        self.bytes += text.len();
        self.tables
            .entry(relation.table.clone())
            .or_default()
            .push(CachedSchema {
                relation: Arc::clone(relation),
                has_keys,
                text: text.into(),
            });
    }
}
