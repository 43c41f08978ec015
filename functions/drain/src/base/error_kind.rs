//! The kind of an error: whether a later tick may succeed.

/// Kind of an error: another attempt may succeed, or the operator must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Another attempt may succeed. The next tick makes it.
    Transient,
    /// No attempt succeeds until the operator acts.
    Definite,
}

impl ErrorKind {
    /// The kind of an error that is transient in one case.
    pub fn transient_if(is_transient: bool) -> Self {
        match is_transient {
            true => ErrorKind::Transient,
            false => ErrorKind::Definite,
        }
    }
}
