//! Schemas that were composed, by table.
//!
//! A schema depends on the columns of its table, and on whether its key is required. It is longer than most
//! rows. So it is composed once for each of these, and copied to the beginning of each event.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::table_name::TableName;
use crate::change::Relation;

/// Most bytes of the schemas that are kept.
const MOST_CACHED_BYTES: usize = 8 << 20;

/// Cache of the texts with which the events of each table begin. Clones share it.
#[derive(Clone, Default)]
pub struct SchemaCache(Arc<Mutex<CachedSchemas>>);

/// Without the texts: `Envelope::settings_text` must not depend on them.
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

/// The text of one description of a table.
#[derive(Debug)]
struct CachedSchema {
    relation: Arc<Relation>,
    /// Whether the columns of the key are required.
    has_keys: bool,
    text: Box<[u8]>,
}

impl SchemaCache {
    /// Appends the text for the rows of a table. `compose` appends it where the cache lacks it.
    ///
    /// `has_keys` is whether the columns of the key are required.
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
        // The tables in use come back with their next rows.
        if self.bytes + text.len() > MOST_CACHED_BYTES {
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
