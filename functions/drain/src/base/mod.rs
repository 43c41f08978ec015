//! Types and limits that every other module may use.

pub mod budget;
pub(crate) mod causes;
pub mod clock;
pub mod lsn;
pub(crate) mod nonce;
pub mod position;
pub mod stored_document;
pub mod table_name;
pub mod time;
pub(crate) mod varint;
pub mod window_sizing;
