//! Ports: the traits for PostgreSQL, Kinesis and SSM, and their errors.
//!
//! The loop reaches these services only through the traits. Each trait has only the methods that its callers
//! need. The edges implement the traits, and so do the fakes of the tests.

mod error;
mod lock_holder;
mod slot;
mod state_store;
mod stream;
mod tables;

pub use error::{SecretError, SlotError, StateStoreError, StreamError};
pub use lock_holder::LockHolder;
pub use slot::{
    CommitRows, EmittedMessage, OldestTransaction, PEEK_ROW_BYTES, PeekRow, PeekRows, Retention, Slot,
    SlotFigures, WalPositions,
};
pub use state_store::StateStore;
pub use stream::{PutAnswer, RecordOutcome, Stream, StreamInfo};
pub use tables::{ChunkBounds, ChunkRead, TableSource};
