//! Positions of events.

/// Parts of a position: end of the commit, LSN, index.
pub type PositionParts = (u64, u64, u32);

/// Parts of a position; `None` for another text.
///
/// They have 16, 16 and 8 hexadecimal digits in lower case, and are separated by periods.
pub fn position_parts(text: &str) -> Option<PositionParts> {
    let mut texts = text.split('.');
    let mut number = |digits: usize| {
        let text = texts.next().filter(|text| text.len() == digits)?;
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| is_hex)
    };
    let parts = (number(16)?, number(16)?, u32::try_from(number(8)?).ok()?);
    texts.next().is_none().then_some(parts)
}
