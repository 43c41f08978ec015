//! The kind of an error: whether a later tick may succeed.

/// Kind of an error: another attempt may succeed, or the operator must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Another attempt may succeed. The next tick makes it.
    Transient,
    /// No attempt succeeds until the operator acts.
    Definite,
}
