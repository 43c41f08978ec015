//! From events to requests: what may travel together, what must wait, and up to where everything has arrived. Pure.

mod key;
mod lanes;
mod ledger;

pub use key::{hash, shorten_key};
pub use lanes::{Lanes, Limits, Parcel, Settled};
pub use ledger::{Ledger, TransactionId};
