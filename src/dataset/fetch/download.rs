//! One file over HTTP: attempts until it is whole, verified and visible, or there is no hope.

use super::{Fault, Patience, Progress, Token, Wanted, cause, partial::Partial, without_user_info};
use crate::dataset::{DatasetError, checksum};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER},
};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::UnboundedSender;

/// A server's wish to wait longer than this is cut to it.
const LONGEST_WISH: Duration = Duration::from_secs(120);

/// One file on its way.
pub(super) struct Download {
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) wanted: Wanted,
    pub(super) patience: Patience,
    pub(super) events: UnboundedSender<Progress>,
}

/// Why an attempt ended without what was wanted.
pub(super) enum Ended {
    /// Another attempt may help, after a pause that the server may have named.
    Again(Fault, Option<Duration>),
    /// It may not.
    Fault(Fault),
    /// It is not the server's fault.
    Local(DatasetError),
}

impl From<DatasetError> for Ended {
    fn from(error: DatasetError) -> Self {
        Ended::Local(error)
    }
}

/// File operations block a thread of this runtime. It serves nothing but downloads, and has a second thread.
impl Download {
    /// # Errors
    /// [`DatasetError::Download`], [`DatasetError::Cache`].
    pub(super) async fn run(self) -> Result<(), DatasetError> {
        let mut partial = Partial::open(&self.wanted.target)?;
        self.say(Progress::Started { file: self.name(), bytes: self.wanted.file.bytes, have: partial.len() });
        let (mut tries, mut most, mut pauses) = (0, partial.len(), self.patience.pauses());
        loop {
            tries += 1;
            let (fault, wish) = match self.attempt(&mut partial).await {
                Ok(()) => return self.publish(partial),
                Err(Ended::Local(error)) => return Err(error),
                Err(Ended::Fault(fault)) => {
                    partial.discard()?;
                    return Err(self.failed(fault, tries));
                }
                Err(Ended::Again(fault, wish)) => (fault, wish),
            };
            // As long as a connection brings bytes that were never here before, it may break as often as it likes.
            if partial.len() > most {
                most = partial.len();
                pauses = self.patience.pauses();
            }
            let Some(pause) = pauses.next().map(|own| wish.unwrap_or(own)) else {
                // What is here is the beginning of the next attempt, unless it is nothing.
                if partial.len() == 0 {
                    partial.discard()?;
                }
                return Err(self.failed(fault, tries));
            };
            self.say(Progress::Retrying { file: self.name(), why: fault.to_string(), pause });
            tokio::time::sleep(pause).await;
        }
    }

    /// Brings the file here, from where it is, and verifies it.
    async fn attempt(&self, partial: &mut Partial) -> Result<(), Ended> {
        let resumed = partial.len() > 0;
        let whole = |partial: &Partial| self.wanted.file.bytes == Some(partial.len());
        if !(resumed && whole(partial)) {
            self.receive(partial).await?;
        }
        match checksum::verify_file(partial.path(), &self.wanted.file, self.wanted.reader.as_ref()) {
            Ok(_) => Ok(()),
            Err(DatasetError::Differs { what, expected, got, .. }) => {
                self.differs(partial, resumed, format!("its {what} is {got}, but {expected} is expected"))
            }
            Err(DatasetError::Format { place, cause, .. }) => self.differs(partial, resumed, format!("{place}: {cause}")),
            Err(error) => Err(error.into()),
        }
    }

    /// The beginning may be of another copy than the end: only a file that came in one piece is known to be wrong.
    fn differs(&self, partial: &mut Partial, resumed: bool, what: String) -> Result<(), Ended> {
        if !resumed {
            return Err(Ended::Fault(Fault::Differs(what)));
        }
        partial.restart(None)?;
        Err(Ended::Again(Fault::Differs(what), Some(Duration::ZERO)))
    }

    async fn receive(&self, partial: &mut Partial) -> Result<(), Ended> {
        let expected = self.wanted.file.bytes;
        if expected.is_some_and(|bytes| partial.len() > bytes) {
            partial.restart(None)?;
        }
        let mut request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(Token(token)) = &self.wanted.token {
            request = request.header(AUTHORIZATION, token);
        }
        if partial.len() > 0 {
            request = request.header(RANGE, format!("bytes={}-", partial.len()));
            if let Some(validator) = partial.validator() {
                request = request.header(IF_RANGE, validator);
            }
        }
        let mut answer = request.send().await.map_err(|e| self.transport(&e, partial))?;
        let total = self.begin(&answer, partial)?;
        if let (Some(expected), Some(got)) = (expected, total)
            && expected != got
        {
            return Err(Ended::Fault(Fault::Size { expected, got }));
        }
        while let Some(bytes) = answer.chunk().await.map_err(|e| self.transport(&e, partial))? {
            partial.append(&bytes)?;
            self.say(Progress::Received { file: self.name(), have: partial.len() });
            if let Some(expected) = expected.filter(|e| partial.len() > *e) {
                return Err(Ended::Fault(Fault::Size { expected, got: partial.len() }));
            }
        }
        match expected {
            // Without a declared length, a connection that closes early looks like the end.
            Some(expected) if partial.len() < expected => Err(Ended::Again(Fault::Size { expected, got: partial.len() }, None)),
            _ => Ok(()),
        }
    }

    /// Makes the partial file ready for the body of this answer. Returns the size of the whole file, where the server says it.
    fn begin(&self, answer: &Response, partial: &mut Partial) -> Result<Option<u64>, Ended> {
        let (status, headers) = (answer.status(), answer.headers());
        match status {
            StatusCode::OK => {
                partial.restart(validator(headers).as_deref())?;
                Ok(answer.content_length())
            }
            StatusCode::PARTIAL_CONTENT => match content_range(headers) {
                Some((start, total)) if start == partial.len() => Ok(total),
                _ => {
                    partial.restart(None)?;
                    Err(Ended::Again(Fault::WrongPart, Some(Duration::ZERO)))
                }
            },
            // Asked for what lies behind the end: what is here is not a beginning of the server's file.
            StatusCode::RANGE_NOT_SATISFIABLE if partial.len() > 0 => {
                partial.restart(None)?;
                Err(Ended::Again(Fault::Status(status), Some(Duration::ZERO)))
            }
            _ => Err(refused(answer)),
        }
    }

    fn transport(&self, error: &reqwest::Error, partial: &Partial) -> Ended {
        Ended::Again(broken(error, partial.len(), self.patience), None)
    }

    fn publish(&self, partial: Partial) -> Result<(), DatasetError> {
        let bytes = partial.len();
        partial.publish()?;
        self.say(Progress::Finished { file: self.name(), bytes });
        Ok(())
    }

    fn failed(&self, fault: Fault, tries: u32) -> DatasetError {
        let Wanted { of, file, .. } = &self.wanted;
        let url = without_user_info(self.url.as_str());
        DatasetError::Download { of: of.clone(), file: file.path.clone(), url, fault, tries }
    }

    fn name(&self) -> String {
        self.wanted.file.path.clone()
    }

    fn say(&self, event: Progress) {
        // Nobody listens any more once another file has failed.
        let _ = self.events.send(event);
    }
}

/// Why an answer without a file ends an attempt: a busy or broken server may have it a moment later.
pub(super) fn refused(answer: &Response) -> Ended {
    let status = answer.status();
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Ended::Again(Fault::Status(status), wish(answer.headers())),
        _ if status.is_server_error() => Ended::Again(Fault::Status(status), wish(answer.headers())),
        _ => Ended::Fault(Fault::Status(status)),
    }
}

/// A connection that failed after `got` bytes of the file.
pub(super) fn broken(error: &reqwest::Error, got: u64, patience: Patience) -> Fault {
    if error.is_connect() {
        Fault::Unreachable(cause(error))
    } else if error.is_timeout() {
        Fault::Stalled { limit: patience.stall, got }
    } else {
        Fault::Broken { got, cause: cause(error) }
    }
}

/// A strong ETag, else the date: what `If-Range` may hold (RFC 9110, 13.1.5).
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    text(ETAG).filter(|tag| tag.starts_with('"')).or_else(|| text(LAST_MODIFIED)).map(str::to_owned)
}

/// Start and size of the whole, from `bytes START-END/TOTAL`; TOTAL may be `*`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, total) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

/// `Retry-After`, in seconds or as a date.
fn wish(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(pause.min(LONGEST_WISH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn headers_are_read() {
        let headers = |pairs: &[(reqwest::header::HeaderName, &'static str)]| {
            pairs.iter().map(|(k, v)| (k.clone(), HeaderValue::from_static(v))).collect::<HeaderMap>()
        };
        for (value, expected) in [
            ("bytes 3-9/10", Some((3, Some(10)))),
            ("bytes 3-9/*", Some((3, None))),
            ("bytes */10", None),
            ("items 3-9/10", None),
            ("", None),
        ] {
            assert_eq!(content_range(&headers(&[(CONTENT_RANGE, value)])), expected, "{value}");
        }
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(validator(&headers(&[(ETAG, "\"a\""), (LAST_MODIFIED, date)])).as_deref(), Some("\"a\""));
        assert_eq!(validator(&headers(&[(ETAG, "W/\"a\""), (LAST_MODIFIED, date)])).as_deref(), Some(date));
        assert_eq!(validator(&headers(&[(ETAG, "W/\"a\"")])), None);
        for (value, expected) in [("7", Some(7)), ("100000", Some(120)), (date, Some(0)), ("soon", None), ("-1", None)] {
            assert_eq!(wish(&headers(&[(RETRY_AFTER, value)])), expected.map(Duration::from_secs), "{value}");
        }
    }
}
