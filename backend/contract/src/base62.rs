//! Numbers in base62, of a fixed width.

/// The `width` lowest digits of `number`, the highest first, with `0` in front of a short one.
pub(crate) fn digits(mut number: u128, width: usize) -> String {
    let mut digits: Vec<u8> = Vec::with_capacity(width);
    for _ in 0..width {
        let digit = usize::try_from(number % BASE).unwrap_or_default();
        digits.push(ALPHABET.get(digit).copied().unwrap_or(b'0'));
        number /= BASE;
    }
    digits.iter().rev().map(|digit| char::from(*digit)).collect()
}

/// Whether `text` is digits only.
pub(crate) fn is_base62(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

const BASE: u128 = 62;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_is_fixed_and_the_highest_digit_first() {
        assert_eq!(digits(0, 6), "000000");
        assert_eq!(digits(61, 3), "00z");
        assert_eq!(digits(62, 3), "010");
        assert_eq!(digits(u64::MAX.into(), 11), "LygHa16AHYF");
        assert_eq!(digits(u32::MAX.into(), 6), "4gfFC3");
    }
}
