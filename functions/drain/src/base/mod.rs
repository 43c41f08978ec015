//! Types and limits that every other module may use.

pub mod budget;
pub mod causes;
pub mod clock;
pub mod error_kind;
mod keywords;
pub mod lsn;
pub(crate) mod nonce;
pub mod position;
pub(crate) mod shown_text;
pub mod stored_document;
pub mod table_name;
pub mod time;
pub(crate) mod varint;
pub mod window;
