//! The function as Lambda runs it.

pub mod function;
mod log_file;
pub mod runtime_api;
