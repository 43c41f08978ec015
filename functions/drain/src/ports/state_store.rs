//! The port to the parameter of a stored document.
//!
//! The document is the checkpoint, the state of the backfill, or the list of sent tables.

use std::future::Future;

use super::StateStoreError;

/// The place of one document.
pub trait StateStore: Clone + Send + Sync + 'static {
    /// The name of the place, for errors.
    fn name(&self) -> String;

    /// Stores a text in place of the last one.
    ///
    /// # Errors
    /// The store was refused, or did not answer. Without an answer it may have been stored.
    fn store(&self, text: String) -> impl Future<Output = Result<(), StateStoreError>> + Send;
}
