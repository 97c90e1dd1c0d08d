//! Python's idea of text, where a protocol's original relied on it.

use unicode_general_category::{GeneralCategory as G, get_general_category};

/// Whether Python's `re` counts the character as `\w`: a letter, any number (`Nd`, `Nl`, `No`) or `_`.
///
/// Marks are not word characters here, unlike in the `regex` crate. Newer Unicode tables agree with Python 3.9's (Unicode 13) on every
/// character assigned in 13.
pub fn is_word(c: char) -> bool {
    c == '_'
        || matches!(
            get_general_category(c),
            G::UppercaseLetter
                | G::LowercaseLetter
                | G::TitlecaseLetter
                | G::ModifierLetter
                | G::OtherLetter
                | G::DecimalNumber
                | G::LetterNumber
                | G::OtherNumber
        )
}

/// Whether Python's `str.isspace` and `str.strip` count the character as white space: Unicode's `White_Space` and the four separators
/// U+001C to U+001F.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.capitalize()`: the first character in title case, the rest in lower case.
pub fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // The whole is lowered, because a final sigma depends on what stands before it.
    let lower = text.to_lowercase();
    let lower_first: usize = first.to_lowercase().map(char::len_utf8).sum();
    title_case(first) + &lower[lower_first..]
}

/// Title case of a character, which is not its upper case for digraphs, ligatures, Georgian, and Greek with iota subscript.
fn title_case(c: char) -> String {
    let upper: String = c.to_uppercase().collect();
    let shifted = |by: u32| char::from_u32(u32::from(c) + by).map_or_else(String::new, String::from);
    match c {
        '\u{1c4}'..='\u{1c6}' => "\u{1c5}".to_owned(),
        '\u{1c7}'..='\u{1c9}' => "\u{1c8}".to_owned(),
        '\u{1ca}'..='\u{1cc}' => "\u{1cb}".to_owned(),
        '\u{1f1}'..='\u{1f3}' => "\u{1f2}".to_owned(),
        '\u{10d0}'..='\u{10ff}' => c.to_string(),
        '\u{149}' => upper,
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => shifted(8),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => shifted(9),
        '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}' => c.to_string(),
        '\u{1fb2}'..='\u{1ff7}' if upper.ends_with('\u{399}') => format!("{}\u{345}", upper.trim_end_matches('\u{399}')),
        _ => {
            let mut letters = upper.chars();
            letters.next().map(String::from).unwrap_or_default() + &letters.as_str().to_lowercase()
        }
    }
}

/// The 32 ASCII characters of `string.punctuation`, deleted.
pub fn without_punctuation(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_punctuation()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitals_are_pythons() {
        for (text, expected) in [
            ("", ""),
            ("then the MAN", "Then the man"),
            ("\u{df}A", "Ssa"),
            ("\u{1c6}A", "\u{1c5}a"),
            ("\u{149}A", "\u{2bc}Na"),
            ("\u{10d0}B", "\u{10d0}b"),
            ("\u{1fb3}", "\u{1fbc}"),
            ("\u{1fb2}", "\u{1fba}\u{345}"),
            ("ΣΑΣ ΣΑΣ.", "Σας σας."),
            ("\u{130}X", "\u{130}x"),
            ("1ST", "1st"),
        ] {
            assert_eq!(capitalize(text), expected, "{text:?}");
        }
    }

    #[test]
    fn white_space_is_pythons() {
        for (c, expected) in
            [(' ', true), ('\u{3000}', true), ('\u{1f}', true), ('\u{85}', true), ('\u{a0}', true), ('\u{200b}', false), ('\0', false)]
        {
            assert_eq!(is_space(c), expected, "{c:?}");
        }
    }

    #[test]
    fn word_characters_are_pythons() {
        for (c, expected) in [
            ('a', true),
            ('_', true),
            ('々', true),
            ('ー', true),
            ('〇', true),
            ('①', true),
            ('Ⅳ', true),
            ('²', true),
            ('・', false),
            ('、', false),
            ('-', false),
            ('\u{3099}', false),
            ('\u{feff}', false),
            ('\u{200d}', false),
            ('😀', false),
            ('○', false),
        ] {
            assert_eq!(is_word(c), expected, "{c:?}");
        }
    }
}
