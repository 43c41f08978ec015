//! A number of any size as Kafka Connect's `Decimal`: its digits without the point, in two's complement, most significant
//! byte first, and how many of them stand behind the point.

/// The largest scale that a column can fix (documentation, "Arbitrary Precision Numbers").
const LARGEST_SCALE: i32 = 1000;

/// A number: the bytes of `digits * 10^scale`, and the scale.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    /// As few bytes as hold the sign, at least one (Java's `BigInteger.toByteArray`).
    pub(super) unscaled: Vec<u8>,
    /// Digits behind the point.
    pub(super) scale: i32,
}

impl Decimal {
    /// Reads `-12.50`, with as many digits behind the point as `scale` says, or as are there. `None` when it is no finite number,
    /// has more digits than the scale holds, or a column cannot have that scale.
    pub(super) fn parse(text: &str, scale: Option<i32>) -> Option<Decimal> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let mut digits = [whole, fraction].concat();
        if whole.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let has = i32::try_from(fraction.len()).ok()?;
        if scale.is_some_and(|scale| scale > LARGEST_SCALE) {
            return None;
        }
        let scale = scale.unwrap_or(has);
        let more = scale.checked_sub(has)?;
        if more >= 0 {
            digits.extend(std::iter::repeat_n('0', usize::try_from(more).ok()?));
        } else {
            let kept = digits.len().saturating_sub(more.unsigned_abs() as usize);
            if digits[kept..].bytes().any(|b| b != b'0') {
                return None;
            }
            digits.truncate(kept);
        }
        Some(Decimal {
            unscaled: twos_complement(negative, &magnitude(&digits)),
            scale,
        })
    }
}

/// Decimal digits as a number in base 2^64, least significant first. The work grows with the square of the digits, but 19 are done at
/// a time: the 147,455 that a numeric can have take milliseconds.
fn magnitude(digits: &str) -> Vec<u64> {
    let mut number: Vec<u64> = Vec::with_capacity(digits.len() / 19 + 1);
    let mut rest = digits;
    while !rest.is_empty() {
        // The first piece takes what is left over by the others.
        let length = match rest.len() % 19 {
            0 => 19,
            odd => odd,
        };
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        let mut carry = u128::from(piece.parse::<u64>().unwrap_or_default());
        let factor = u128::from(10u64.pow(length as u32));
        for limb in &mut number {
            carry += u128::from(*limb) * factor;
            *limb = carry as u64;
            carry >>= 64;
        }
        if carry > 0 {
            number.push(carry as u64);
        }
    }
    number
}

fn twos_complement(negative: bool, magnitude: &[u64]) -> Vec<u8> {
    let mut bytes: Vec<u8> = magnitude
        .iter()
        .rev()
        .flat_map(|limb| limb.to_be_bytes())
        .collect();
    // Room for the sign.
    bytes.insert(0, 0);
    if negative {
        let mut carry = true;
        for byte in bytes.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    // A byte that only repeats the sign of the next one says nothing.
    let says_nothing = |pair: &&[u8]| {
        let sign = if pair[1] & 0x80 == 0 { 0 } else { 0xFF };
        pair[0] == sign
    };
    let extra = bytes.windows(2).take_while(says_nothing).count();
    bytes.split_off(extra)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str, scale: Option<i32>) -> Option<(Vec<u8>, i32)> {
        Decimal::parse(text, scale).map(|decimal| (decimal.unscaled, decimal.scale))
    }

    /// The bytes are Java's: `new BigDecimal(text).unscaledValue().toByteArray()`.
    #[test]
    fn a_number_is_its_unscaled_value_in_as_few_bytes_as_hold_the_sign() {
        for (text, scale, bytes, expected) in [
            ("0", None, &[0][..], 0),
            ("0.00", None, &[0], 2),
            ("1.10", None, &[110], 2),
            ("127", None, &[127], 0),
            ("128", None, &[0, 128], 0),
            ("-128", None, &[128], 0),
            ("-129", None, &[0xFF, 0x7F], 0),
            ("-0.1", None, &[0xFF], 1),
            ("12.5", Some(4), &[1, 0xE8, 0x48], 4),
            ("12300", Some(-2), &[123], -2),
            ("0", Some(-2), &[0], -2),
            ("12.50", Some(1), &[125], 1),
            ("18446744073709551616", None, &[1, 0, 0, 0, 0, 0, 0, 0, 0], 0),
        ] {
            assert_eq!(parse(text, scale), Some((bytes.to_vec(), expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_finite_number_or_has_more_digits_than_its_scale_is_none() {
        for (text, scale) in [
            ("NaN", None),
            ("-Infinity", None),
            ("", None),
            ("-", None),
            ("1e5", None),
            ("1.2.3", None),
            ("1.25", Some(1)),
            ("12345", Some(-2)),
            ("1", Some(1001)),
        ] {
            assert_eq!(parse(text, scale), None, "{text}");
        }
    }

    #[test]
    fn the_largest_number_that_a_numeric_can_be_is_written() {
        let text = format!("{}.{}", "9".repeat(131_072), "9".repeat(16_383));
        let (bytes, scale) = parse(&text, None).unwrap();
        // 10^147455 - 1 has 489,835 bits: its logarithm to base 2, rounded up.
        assert_eq!((bytes.len(), scale), (489_835 / 8 + 1, 16_383));
    }

    proptest! {
        #[test]
        fn small_numbers_are_what_the_processor_says(number: i128) {
            let (bytes, _) = parse(&number.to_string(), None).unwrap();
            let all = number.to_be_bytes();
            let sign = if number < 0 { 0xFF } else { 0 };
            let mut padded = vec![sign; 16 - bytes.len().min(16)];
            padded.extend(&bytes);
            prop_assert_eq!(padded, all.to_vec());
            prop_assert!(bytes.len() == 1 || bytes[0] != sign || (bytes[1] & 0x80) != (sign & 0x80));
        }
    }
}
