//! Nonces: random texts that identify logical messages.

/// 16 random hexadecimal digits.
pub(crate) fn random_nonce() -> String {
    format!("{:016x}", fastrand::u64(..))
}
