//! Log sequence numbers of PostgreSQL.

use crate::base::shown_text::shown;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A log sequence number: a byte offset into the write-ahead log.
///
/// Its text is `16/B374D848`: two halves of 32 bits in hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// The smallest LSN.
    ///
    /// PostgreSQL uses it for "no LSN". No log record starts there.
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes of write-ahead log since `earlier`; zero if `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The LSN `bytes` later; the largest LSN if the sum overflows.
    pub fn plus(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Error for a text that is not an LSN.
///
/// An LSN has two halves of one to eight hexadecimal digits, and a slash between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an LSN: expected two hexadecimal numbers as in 16/B374D848")]
pub struct LsnParseError(String);

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            // `from_str_radix` alone would accept a sign.
            let is_plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            is_plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| LsnParseError(shown(text)))
    }
}

impl TryFrom<String> for Lsn {
    type Error = LsnParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_lsn_is_read_and_written_as_postgresql_prints_it() {
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!(Lsn(0x1_0000_0001).to_string(), "1/1");
    }

    #[test]
    fn a_text_that_is_not_an_lsn_is_refused() {
        for text in [
            "",
            "/",
            "1",
            "1/",
            "/1",
            "+1/1",
            "1/123456789",
            "1/1/1",
            "g/1",
            "1/1 ",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_lsn_is_read_from_its_own_text(n: u64) {
            prop_assert_eq!(Lsn(n).to_string().parse(), Ok(Lsn(n)));
        }
    }
}
