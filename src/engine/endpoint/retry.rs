//! When a request is asked again, and after how long. The rules are openai-python's (3.54.0 `_base_client.py`, `_should_retry` and
//! `_calculate_retry_timeout`).

use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::header::HeaderMap;
use std::time::{Duration, SystemTime};

/// A server's wish to wait longer than this is cut to it.
const LONGEST_WISH: Duration = Duration::from_secs(60);

/// Pauses between attempts where the server does not name one: doubling, with up to as much again as jitter.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Before the second attempt.
    pub first: Duration,
    /// Never longer than this (before jitter).
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(8) }
    }
}

impl Backoff {
    /// The pauses, one before each further attempt.
    pub(super) fn pauses(self) -> impl Iterator<Item = Duration> {
        ExponentialBuilder::new().with_min_delay(self.first).with_max_delay(self.longest).without_max_times().with_jitter().build()
    }
}

/// Whether asking again makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// The same request would get the same answer.
    No,
    /// After a pause of our own choice.
    Yes,
    /// After this long, as the server wishes.
    After(Duration),
}

/// What the status and the headers of an answer say about asking again. `quota` = the body says that the account is used up.
pub(super) fn again(status: u16, quota: bool, headers: &HeaderMap, now: SystemTime) -> Again {
    let told = headers.get("x-should-retry").and_then(|v| v.to_str().ok());
    let retry = match told {
        _ if quota => false,
        Some("true") => true,
        Some("false") => false,
        _ => matches!(status, 408 | 409 | 429 | 500..),
    };
    match wish(headers, now) {
        _ if !retry => Again::No,
        Some(pause) => Again::After(pause.min(LONGEST_WISH)),
        None => Again::Yes,
    }
}

/// `retry-after-ms`, else `retry-after` in seconds or as a date.
fn wish(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let number = |t: &str| t.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    if let Some(ms) = text("retry-after-ms").and_then(number) {
        return Some(Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(LONGEST_WISH));
    }
    let after = text("retry-after")?;
    match number(after) {
        Some(seconds) => Some(Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_WISH)),
        None => httpdate::parse_http_date(after).ok().map(|date| date.duration_since(now).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn status_and_headers_decide() {
        // 784111777 is the date of RFC 9110's example.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let ms = |n| Again::After(Duration::from_millis(n));
        for (status, quota, pairs, expected) in [
            (400, false, &[][..], Again::No),
            (404, false, &[], Again::No),
            (408, false, &[], Again::Yes),
            (409, false, &[], Again::Yes),
            (422, false, &[], Again::No),
            (429, false, &[], Again::Yes),
            (429, true, &[("retry-after", "1")], Again::No),
            (500, false, &[], Again::Yes),
            (503, false, &[("retry-after", "2")], ms(2000)),
            (503, false, &[("retry-after", "0.25")], ms(250)),
            (429, false, &[("retry-after-ms", "15"), ("retry-after", "9")], ms(15)),
            (429, false, &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")], ms(7000)),
            (429, false, &[("retry-after", "Sun, 06 Nov 1994 08:49:30 GMT")], ms(0)),
            (429, false, &[("retry-after", "3600")], ms(60_000)),
            (429, false, &[("retry-after", "1e300")], ms(60_000)),
            (429, false, &[("retry-after", "soon")], Again::Yes),
            (429, false, &[("retry-after", "-1")], Again::Yes),
            (500, false, &[("x-should-retry", "false")], Again::No),
            (400, false, &[("x-should-retry", "true")], Again::Yes),
        ] {
            assert_eq!(again(status, quota, &headers(pairs), now), expected, "{status} {pairs:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_with_jitter_on_top() {
        let pauses: Vec<_> = Backoff::default().pauses().take(7).collect();
        for (pause, base) in pauses.iter().zip([0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]) {
            assert!((base..=2.0 * base).contains(&pause.as_secs_f64()), "{pause:?} for {base}");
        }
    }
}
