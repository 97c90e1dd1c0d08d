//! Which stop strings are sent to a server that takes only a few.
//!
//! The full list is always applied here afterwards, so sending fewer costs tokens, never correctness. One trap remains: a server drops
//! the string it stopped at. If that string overlaps the tail of one that was *not* sent, the evidence of the unsent one is gone
//! (unsent `"\n\nQ:"`, sent `"Q:"`, text `"a\n\nQ:"`: the server answers `"a\n\n"`). Such strings are not sent.

/// At most `limit` of the strings, none empty, none useless, longest first: servers that look at the list in order (vLLM's
/// `check_stop_strings`) then prefer the match that begins earlier when one token completes two.
pub(super) fn to_send<'s>(strings: impl Iterator<Item = &'s str>, limit: usize) -> Vec<&'s str> {
    let mut all: Vec<&str> = Vec::new();
    for s in strings.filter(|s| !s.is_empty()) {
        if !all.contains(&s) {
            all.push(s);
        }
    }
    // Where a string occurs, its prefix occurs at the same place: the longer one never decides.
    let needed = all.iter().copied().filter(|s| !all.iter().any(|p| s != p && s.starts_with(p)));
    let mut needed: Vec<&str> = needed.collect();
    let mut unsent = needed.split_off(limit.min(needed.len()));
    let mut sent = needed;
    while let Some(at) = sent.iter().position(|s| unsent.iter().any(|u| hides(s, u))) {
        unsent.push(sent.remove(at));
    }
    sent.sort_by_key(|s| std::cmp::Reverse(s.len()));
    sent
}

/// Whether stopping at `sent` and dropping it can destroy an occurrence of `unsent` that began earlier.
fn hides(sent: &str, unsent: &str) -> bool {
    unsent.char_indices().skip(1).any(|(at, _)| {
        let tail = &unsent[at..];
        tail.starts_with(sent) || sent.starts_with(tail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::stop::cut_at_stop;
    use proptest::prelude::*;

    #[test]
    fn strings_are_chosen_in_the_protocols_order() {
        let human_eval = ["\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"];
        for (strings, limit, expected) in [
            (&human_eval[..], 33, &["<file_sep>", "\nclass", "\nprint", "\ndef", "\n```", "\nif", "\n#", "\n@"][..]),
            (&human_eval, 4, &["\nclass", "\ndef", "\n#", "\n@"]),
            (&["\n", "\n\n", "", "\n"], 4, &["\n"]),
            (&["Q:", "\n\nQ:"], 1, &[]),
            (&["\n\nQ:", "Q:"], 1, &["\n\nQ:"]),
            (&["ab", "ca"], 1, &[]),
            (&["ab", "ca"], 2, &["ab", "ca"]),
            (&["a"], 0, &[]),
            (&[], 4, &[]),
        ] {
            assert_eq!(to_send(strings.iter().copied(), limit), expected, "{strings:?} {limit}");
        }
    }

    /// A server that sees one character at a time and drops the stop string it ends at.
    fn served(text: &str, stops: &[&str]) -> String {
        let mut out = String::new();
        for c in text.chars() {
            out.push(c);
            if let Some(s) = stops.iter().find(|s| out.ends_with(**s)) {
                out.truncate(out.len() - s.len());
                break;
            }
        }
        out
    }

    proptest! {
        #[test]
        fn fewer_strings_sent_give_the_same_answer(text in "[ab]{0,12}", strings in prop::collection::vec("[ab]{1,3}", 1..6), limit in 0usize..4) {
            let all: Vec<&str> = strings.iter().map(String::as_str).collect();
            let sent = to_send(all.iter().copied(), limit);
            prop_assert!(sent.len() <= limit);
            let received = served(&text, &sent);
            let through_all = served(&text, &to_send(all.iter().copied(), usize::MAX));
            // Where a shorter string completes inside a longer one both answers are a server's right; no third one is.
            let here = cut_at_stop(&received, &all).0;
            prop_assert!(here == cut_at_stop(&text, &all).0 || here == cut_at_stop(&through_all, &all).0, "{here:?} {received:?}");
        }
    }
}
