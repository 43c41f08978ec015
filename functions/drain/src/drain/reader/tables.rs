//! The reader's requests for the tables that its rows name.

use std::collections::BTreeSet;

use super::WindowReader;
use crate::catalog::{Catalog, TableRequest};
use crate::ports::PeekRow;

/// Number of table requests at which a window reads all tables.
///
/// Each request costs a round trip. In a database of ten thousand tables, a read of all of them costs about
/// as much as this number of round trips.
const MANY_REQUESTS: usize = 256;

impl<R: PeekRow> WindowReader<'_, R> {
    /// The catalog, to add tables to.
    pub(crate) fn catalog_mut(&mut self) -> &mut Catalog {
        &mut self.catalog
    }

    /// The tables that the next row needs and the catalog lacks.
    ///
    /// Returns `None` if the catalog lacks none. The request has the tables of the other rows that wait, too.
    pub(super) fn table_request(&mut self) -> Option<TableRequest> {
        if !self.catalog.is_partial() || !self.decoder.names_tables(self.rows.front()?.data()) {
            return None;
        }
        let lacking = |row: &R| {
            let names = self.decoder.tables(row.data()).into_iter();
            let oid = self.decoder.table_oid(row.data());
            let names = names.filter(|name| self.catalog.lacks(name));
            (names, oid.filter(|oid| self.catalog.lacks_oid(*oid)))
        };
        let (mut names, oid) = lacking(self.rows.front()?);
        if names.next().is_none() && oid.is_none() {
            return None;
        }
        self.table_requests += 1;
        // Tables that this request does not find are requested by name later.
        if self.table_requests == MANY_REQUESTS {
            return Some(TableRequest::All);
        }
        let (mut names, mut oids) = (BTreeSet::new(), BTreeSet::new());
        for (row_names, oid) in self.rows.iter().map(lacking) {
            names.extend(row_names);
            oids.extend(oid);
        }
        Some(TableRequest::Named {
            names: names.into_iter().collect(),
            oids: oids.into_iter().collect(),
        })
    }
}
