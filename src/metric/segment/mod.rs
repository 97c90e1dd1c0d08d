//! Words of languages that are written without spaces.

pub mod compile;
pub mod nagisa;
