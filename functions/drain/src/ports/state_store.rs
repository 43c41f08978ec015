//! The port to the parameter of a stored document.
//!
//! The document is the checkpoint, the state of the backfill, or the list of sent tables.

use std::future::Future;

use super::StateStoreError;

/// The parameter of one document.
pub trait StateStore: Clone + Send + Sync + 'static {
    /// The parameter's name, for errors.
    fn name(&self) -> String;

    /// Replaces the stored text.
    ///
    /// # Errors
    /// SSM refused the request, or did not answer. Without an answer, the text may be stored.
    fn store(&self, text: String) -> impl Future<Output = Result<(), StateStoreError>> + Send;
}
