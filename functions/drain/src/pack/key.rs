//! Partition keys as Kinesis takes them.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Unicode characters that a partition key may have (Kinesis API, PutRecordsRequestEntry).
const MOST_CHARACTERS: usize = 256;

/// Puts a hash in the place of a key that is too long: 64 hexadecimal digits of SHA-256, the same every time.
pub fn shorten_key(key: &mut String) {
    if key.len() > MOST_CHARACTERS && key.chars().count() > MOST_CHARACTERS {
        *key = hash(key);
    }
}

/// SHA-256 of a key as 64 hexadecimal digits: names a key in an error without telling its values.
pub fn hash(key: &str) -> String {
    Sha256::digest(key.as_bytes())
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_at_the_limit_stays_and_one_beyond_it_is_hashed() {
        for (key, stays) in [
            ("é".repeat(255), true),
            ("é".repeat(256), true),
            ("é".repeat(257), false),
        ] {
            let mut shortened = key.clone();
            shorten_key(&mut shortened);
            assert_eq!(shortened == key, stays);
            assert!(shortened.chars().count() <= MOST_CHARACTERS);
        }
    }
}
