//! Nonces: random texts that tell one logical message from every other.

/// 16 hexadecimal digits, drawn at random.
pub(crate) fn random_nonce() -> String {
    format!("{:016x}", fastrand::u64(..))
}
