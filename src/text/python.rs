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

#[cfg(test)]
mod tests {
    use super::*;

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
