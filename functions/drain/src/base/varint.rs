//! Variable-length numbers, as in Protocol Buffers: seven bits a byte, the lowest first.
//!
//! The highest bit is set in each byte but the last.

/// Most bytes of a number of 70 bits.
const MAX_VARINT_BYTES: u32 = 10;

/// Bytes that [`push`] writes for `number`.
pub(crate) fn length(number: u64) -> usize {
    // Zero needs one byte, too.
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a number.
pub(crate) fn push(out: &mut Vec<u8>, number: impl Into<u128>) {
    let mut number = number.into();
    while number >= 0x80 {
        // The cast keeps the lowest eight bits, as intended.
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a number, and removes it from the start of `bytes`.
///
/// `None` if `bytes` does not start with a number of at most 70 bits.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u128> {
    let mut number = 0;
    for group in 0..MAX_VARINT_BYTES {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u128::from(byte & 0x7f) << (7 * group);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_is_read_back_and_has_its_length(number: u64) {
            for number in [number, number >> (number % 64)] {
                let mut bytes = Vec::new();
                push(&mut bytes, number);
                prop_assert_eq!(bytes.len(), length(number));
                prop_assert_eq!(take(&mut &bytes[..]), Some(number.into()));
            }
        }
    }

    #[test]
    fn a_number_without_a_last_byte_is_refused() {
        assert_eq!(take(&mut &[0x80; 3][..]), None);
        assert_eq!(take(&mut &[0xff; 11][..]), None);
    }
}
