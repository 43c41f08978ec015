//! The function as Lambda runs it.

pub mod function;
pub mod runtime_api;
