//! LSNs in the notation of PostgreSQL.

/// Number of an LSN such as `16/B374D848`; `None` for another text.
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}
