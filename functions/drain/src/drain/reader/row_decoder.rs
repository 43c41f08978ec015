//! The reader's decoder. It finds the tables that the catalog lacks.

use std::collections::BTreeSet;

use super::waiting_rows::WaitingRows;
use crate::base::lsn::Lsn;
use crate::catalog::{Catalog, TableRequest};
use crate::change::{Change, DecodedRow};
use crate::decode::Decoder;
use crate::error::Error;
use crate::plugin::Plugin;
use crate::ports::PeekRow;

/// Number of table requests at which a window reads all tables.
///
/// Each request costs a round trip. In a database of ten thousand tables, a read of all of them costs about
/// as much as this number of round trips.
const MANY_REQUESTS: usize = 256;

/// Decodes the rows of one window.
pub(super) struct RowDecoder<'a> {
    slot: &'a str,
    decoder: Decoder,
    /// The tables that are known so far.
    pub(super) catalog: Catalog,
    /// Requests for tables so far.
    requests: usize,
}

impl<'a> RowDecoder<'a> {
    pub(super) fn new(slot: &'a str, plugin: Plugin, catalog: Catalog) -> Self {
        RowDecoder {
            slot,
            decoder: Decoder::new(plugin),
            catalog,
            requests: 0,
        }
    }

    /// Decodes a row. `lsn` is its `lsn` column.
    ///
    /// After a begin row, the catalog has the tables as its transaction sees them.
    ///
    /// # Errors
    /// [`Error::Undecodable`].
    pub(super) fn decode<'d>(&mut self, lsn: Lsn, data: &'d [u8]) -> Result<DecodedRow<'d>, Error> {
        let decoded = self.decoder.decode(&self.catalog, lsn, data);
        let decoded = decoded.map_err(|source| Error::Undecodable {
            slot: self.slot.to_owned(),
            lsn,
            source,
        })?;
        if let DecodedRow::Begin { xid, .. } = &decoded {
            self.catalog.begin_transaction(*xid);
        }
        Ok(decoded)
    }

    /// Whether a row is a commit.
    pub(super) fn is_commit(&self, data: &[u8]) -> bool {
        self.decoder.is_commit(data)
    }

    /// Reuses the memory of an encoded change for the next row.
    pub(super) fn recycle(&mut self, change: Change<'_>) {
        self.decoder.recycle(change);
    }

    /// The tables that the first row needs and the catalog lacks.
    ///
    /// Returns `None` if the catalog lacks none. The request also has the tables that the other rows lack.
    pub(super) fn table_request<R: PeekRow>(&mut self, rows: &WaitingRows<R>) -> Option<TableRequest> {
        let first = rows.iter().next()?;
        if !self.catalog.is_partial() || !self.decoder.names_tables(first.data()) {
            return None;
        }
        let lacking = |row: &R| {
            let names = self.decoder.tables(row.data()).into_iter();
            let oid = self.decoder.table_oid(row.data());
            let names = names.filter(|name| self.catalog.lacks(name));
            (names, oid.filter(|oid| self.catalog.lacks_oid(*oid)))
        };
        let (mut names, oid) = lacking(first);
        if names.next().is_none() && oid.is_none() {
            return None;
        }
        self.requests += 1;
        // Tables that this request does not find are requested by name later.
        if self.requests == MANY_REQUESTS {
            return Some(TableRequest::All);
        }
        let (mut names, mut oids) = (BTreeSet::new(), BTreeSet::new());
        for (row_names, oid) in rows.iter().map(lacking) {
            names.extend(row_names);
            oids.extend(oid);
        }
        Some(TableRequest::Named {
            names: names.into_iter().collect(),
            oids: oids.into_iter().collect(),
        })
    }
}
