//! Reads Rust source as far as the house rules need it: tokens without comments and strings, paths with `crate` and `super` resolved,
//! lengths of functions, and which lines are tests. Not a parser: what it cannot see (paths made by macros) it does not report.

/// A word or a sign of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// A path somewhere in the source. In-house paths begin with `crate`, whatever way they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourcePath {
    pub(crate) line: usize,
    pub(crate) parts: Vec<String>,
}

/// A function and how many lines it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// Words, `::` and single signs; comments, literals and lifetimes are left out.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => (at..chars.len()).find(|i| chars[*i] == '\n').unwrap_or(chars.len()),
            '/' if chars.get(at + 1) == Some(&'*') => end_of_comment(&chars, at),
            '"' => end_of_string(&chars, at),
            '\'' => end_of_quote(&chars, at),
            c if c.is_alphabetic() || c == '_' => {
                let end = (at..chars.len()).find(|i| !(chars[*i].is_alphanumeric() || chars[*i] == '_')).unwrap_or(chars.len());
                let word: String = chars[at..end].iter().collect();
                match end_of_raw_string(&chars, &word, end) {
                    Some(end) => end,
                    None => {
                        found.push(Token { text: word, line });
                        end
                    }
                }
            }
            ':' if chars.get(at + 1) == Some(&':') => {
                found.push(Token { text: "::".to_owned(), line });
                at + 2
            }
            c => {
                if !c.is_whitespace() {
                    found.push(Token { text: c.to_string(), line });
                }
                at + 1
            }
        };
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    found
}

/// Block comments nest.
fn end_of_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0_usize, start);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) if depth == 1 => return at + 2,
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// A character literal or a lifetime.
fn end_of_quote(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), _) => (start + 3..chars.len()).find(|i| chars[*i] == '\'').map_or(chars.len(), |i| i + 1),
        (Some(_), Some('\'')) => start + 3,
        _ => start + 1,
    }
}

/// `r"..."`, `br#"..."#`: the end, where the word just read begins such a literal.
fn end_of_raw_string(chars: &[char], word: &str, after: usize) -> Option<usize> {
    if !matches!(word, "r" | "br" | "cr") {
        return None;
    }
    let hashes = chars[after..].iter().take_while(|c| **c == '#').count();
    if chars.get(after + hashes) != Some(&'"') {
        return None;
    }
    let closes = |i: &usize| chars[*i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    (after + hashes + 1..chars.len()).find(closes).map(|i| i + 1 + hashes)
}

/// Every path of a file, groups (`use a::{b, c}`) taken apart. `module` is the file's own path from the crate root.
pub(crate) fn paths(source: &str, module: &[&str]) -> Vec<SourcePath> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    // Inline modules and the brace depth at which each ends.
    let (mut inner, mut depth): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
    let mut at = 0;
    while at < tokens.len() {
        let text = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
        match text(at) {
            "mod" if text(at + 2) == "{" => inner.push((text(at + 1).to_owned(), depth)),
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inner.pop_if(|(_, outer)| *outer == depth);
            }
            word if text(at + 1) == "::" && is_word(word) && (at == 0 || text(at - 1) != "::") => {
                let here: Vec<&str> = module.iter().copied().chain(inner.iter().map(|(name, _)| name.as_str())).collect();
                at = take_path(&tokens, at, &[], &here, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Follows one path (or one branch of a group) from `at`; returns where it ends.
fn take_path(tokens: &[Token], mut at: usize, prefix: &[String], here: &[&str], found: &mut Vec<SourcePath>) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
    let (mut parts, line) = (prefix.to_vec(), tokens[at].line);
    loop {
        match text(at) {
            "{" => {
                at += 1;
                while at < tokens.len() && text(at) != "}" {
                    at = if text(at) == "," { at + 1 } else { take_path(tokens, at, &parts, here, found) };
                }
                return at + 1;
            }
            "super" | "self" if parts.is_empty() => {
                parts = ["crate"].into_iter().chain(here.iter().copied()).map(str::to_owned).collect();
                if text(at) == "super" {
                    parts.pop();
                }
            }
            "super" => drop(parts.pop()),
            "self" => {}
            "swallow_eval" if parts.is_empty() => parts.push("crate".to_owned()),
            word if is_word(word) || word == "*" => parts.push(word.to_owned()),
            // `<` of a turbofish, `as` and the like end the path; a sign that is no part of one must not be read twice.
            _ => {
                found.push(SourcePath { line, parts });
                return at + 1;
            }
        }
        if text(at + 1) != "::" {
            found.push(SourcePath { line, parts });
            let renamed = text(at + 1) == "as";
            return if renamed { at + 3 } else { at + 1 };
        }
        at += 2;
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Every function that has a body.
pub(crate) fn functions(source: &str) -> Vec<Function> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "fn") {
        let Some(name) = tokens.get(at + 1).filter(|name| is_word(&name.text)) else { continue };
        let Some(open) = (at..tokens.len()).find(|i| matches!(tokens[*i].text.as_str(), "{" | ";")) else { continue };
        if let Some(close) = matching(&tokens, open) {
            found.push(Function { name: name.text.clone(), line: token.line, lines: tokens[close].line - token.line + 1 });
        }
    }
    found
}

/// Line ranges of inline `mod tests`.
pub(crate) fn test_lines(source: &str) -> Vec<std::ops::RangeInclusive<usize>> {
    let tokens = tokens(source);
    let starts = tokens.windows(3).enumerate().filter(|(_, w)| w[0].text == "mod" && w[1].text == "tests" && w[2].text == "{");
    starts.filter_map(|(at, w)| Some(w[0].line..=tokens[matching(&tokens, at + 2)?].line)).collect()
}

/// Names of the modules in files of their own that only tests have: `#[cfg(test)] mod name;`.
pub(crate) fn test_modules(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let declared = texts.windows(10).filter(|w| w[..8] == ["#", "[", "cfg", "(", "test", ")", "]", "mod"] && w[9] == ";");
    declared.map(|w| w[8].to_owned()).collect()
}

/// The `}` of a `{`.
fn matching(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return Some(at),
            "}" => depth -= 1,
            ";" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[test]
fn tokens_leave_out_what_is_not_code() {
    let source = "a /* b /* c */ d */ e // f\n\"g \\\" h\" r#\"i \" j\"# 'k' '\\'' &'l m::n '\\u{1F600}' b\"o\" r#type";
    let words: Vec<String> = tokens(source).into_iter().map(|t| t.text).filter(|t| is_word(t)).collect();
    assert_eq!(words, ["a", "e", "l", "m", "n", "b", "r", "type"]);
    assert_eq!(tokens("a\n\"x\ny\"\nb").last(), Some(&Token { text: "b".to_owned(), line: 4 }));
}

#[test]
fn paths_are_found_however_they_are_written() {
    let source = "
use crate::{task::{self, load}, engine as e};
use super::super::metric::Score;
fn f() -> crate::text::Stop { std::fs::read(x).unwrap(); Vec::<u8>::new() }
// crate::comment
mod tests { use super::*; use super::super::mod_of_room; fn g() { let s = \"crate::string\"; } }
pub(crate) fn h() { self::here::<crate::results::Spec>() }
";
    let found: Vec<(usize, String)> = paths(source, &["engine", "llama"]).into_iter().map(|p| (p.line, p.parts.join("::"))).collect();
    let expected = [
        (2, "crate::task"),
        (2, "crate::task::load"),
        (2, "crate::engine"),
        (3, "crate::metric::Score"),
        (4, "crate::text::Stop"),
        (4, "std::fs::read"),
        (4, "Vec"),
        (6, "crate::engine::llama::*"),
        (6, "crate::engine::mod_of_room"),
        (7, "crate::engine::llama::here"),
        (7, "crate::results::Spec"),
    ];
    for (line, path) in expected {
        assert!(found.contains(&(line, path.to_owned())), "{line} {path} is not in {found:?}");
    }
    assert!(!found.iter().any(|(_, path)| path.contains("comment") || path.contains("string")), "{found:?}");
}

#[test]
fn functions_are_measured() {
    let source = "fn a() {\n  b();\n}\ntrait T { fn c(&self); fn d() -> u8 where Self: Sized {\n 1 } }\nmod tests {\n fn e() {}\n}\n";
    let lengths: Vec<(String, usize, usize)> = functions(source).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
    assert_eq!(lengths, [("a".to_owned(), 1, 3), ("d".to_owned(), 4, 2), ("e".to_owned(), 7, 1)]);
    assert_eq!(test_lines(source), [6..=8]);
    assert_eq!(test_modules("mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)] mod c { }"), ["b"]);
}
