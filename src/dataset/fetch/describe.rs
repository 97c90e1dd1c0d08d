//! What a server says of a file without sending it: the hub's HEAD request.

use super::{
    Fault, Patience, Token, address, build, client,
    download::{Ended, broken, refused},
    is_loopback, runtime,
};
use crate::dataset::DatasetError;
use reqwest::{
    Client, Method, Response, Url,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap},
    redirect,
};

/// A file of a repository, as the hub describes it (huggingface_hub 0.26, `file_download.py`, `get_hf_file_metadata`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dataset) struct Description {
    /// `X-Repo-Commit`.
    pub(in crate::dataset) commit: String,
    /// `X-Linked-ETag`, else `ETag`, without quotes: SHA-256 of a large file, git blob id of a small one.
    pub(in crate::dataset) tag: String,
    /// `X-Linked-Size`, else `Content-Length`, in bytes.
    pub(in crate::dataset) bytes: Option<u64>,
}

/// What came of the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dataset) enum Answer {
    /// The file is there.
    Found(Description),
    /// 401, 403 or 404, with the hub's own word for why (`X-Error-Code`): `GatedRepo`, `RepoNotFound`, `RevisionNotFound`, `EntryNotFound`.
    Refused(u16, Option<String>),
    /// It is no hub that answered: a header is missing.
    NoHub(&'static str),
    /// No answer, after all attempts.
    Failed(Fault),
}

/// Asks about each of these addresses, one after the other.
///
/// # Errors
/// [`DatasetError::Address`], [`DatasetError::Client`]. What a server says, or does not say, is an [`Answer`].
pub(in crate::dataset) fn describe(urls: &[String], token: Option<&Token>, patience: Patience) -> Result<Vec<Answer>, DatasetError> {
    let urls = urls.iter().map(|url| address(url, None)).collect::<Result<Vec<Url>, _>>()?;
    // The hub redirects within itself to where a repository has moved, and to another host for the content; the headers that matter are
    // those of the hub itself.
    let own_host = redirect::Policy::custom(|attempt| {
        let stays = attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
        if stays && attempt.previous().len() < 10 { attempt.follow() } else { attempt.stop() }
    });
    let client = build(client(urls.iter().all(is_loopback), patience).redirect(own_host))?;
    runtime()?.block_on(async {
        let mut answers = Vec::new();
        for url in urls {
            answers.push(ask(&client, &url, token, patience).await);
        }
        Ok(answers)
    })
}

async fn ask(client: &Client, url: &Url, token: Option<&Token>, patience: Patience) -> Answer {
    let mut pauses = patience.pauses();
    loop {
        let mut request = client.request(Method::HEAD, url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(Token(token)) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let (fault, wish) = match request.send().await {
            Err(error) => (broken(&error, 0, patience), None),
            Ok(answer) if matches!(answer.status().as_u16(), 401 | 403 | 404) => {
                return Answer::Refused(answer.status().as_u16(), text(answer.headers(), "x-error-code"));
            }
            Ok(answer) if answer.status().is_success() || answer.status().is_redirection() => return read(&answer),
            Ok(answer) => match refused(&answer) {
                Ended::Again(fault, wish) => (fault, wish),
                _ => return Answer::Failed(Fault::Status(answer.status())),
            },
        };
        match pauses.next() {
            Some(own) => tokio::time::sleep(wish.unwrap_or(own)).await,
            None => return Answer::Failed(fault),
        }
    }
}

fn read(answer: &Response) -> Answer {
    let headers = answer.headers();
    // These become names of files.
    let name = |text: String| (!text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')).then_some(text);
    let Some(commit) = text(headers, "x-repo-commit").and_then(name) else { return Answer::NoHub("X-Repo-Commit") };
    let tag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
    let Some(tag) = tag.and_then(|tag| name(tag.trim_start_matches("W/").trim_matches('"').to_owned())) else {
        return Answer::NoHub("ETag");
    };
    // A redirect's own length is that of its few words.
    let own = if answer.status().is_success() { text(headers, CONTENT_LENGTH.as_str()) } else { None };
    let bytes = text(headers, "x-linked-size").or(own).and_then(|n| n.parse().ok());
    Answer::Found(Description { commit, tag, bytes })
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}
