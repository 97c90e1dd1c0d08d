//! Base URLs: what a user may write, what is asked, and what may be shown.

use super::EngineError;
use reqwest::Url;
use std::{fmt, net::IpAddr};

/// The base of a server's OpenAI-compatible routes (`http://host:8000/v1`). Shown without user-info.
pub(super) struct BaseUrl {
    url: Url,
    shown: String,
}

impl BaseUrl {
    /// Reads what people write: with or without `/v1`, with a trailing slash, or the whole route as lm-eval's `base_url` has it
    /// (`…/v1/completions`).
    pub(super) fn parse(text: &str) -> Result<Self, EngineError> {
        let harmless = without_secret(text);
        let wrong = |why: &str| EngineError::with_hint(format!("base URL `{harmless}`: {why}"), "write it as http://host:8000/v1");
        let mut url = Url::parse(text.trim()).map_err(|e| wrong(&e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("it does not begin with http:// or https://"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("a query or fragment has no meaning here"));
        }
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix("/completions").unwrap_or(path);
        let path = path.strip_suffix("/chat").unwrap_or(path);
        let path = if path.is_empty() { "/v1".to_owned() } else { path.to_owned() };
        url.set_path(&path);
        let shown = without_user(&url).to_string();
        Ok(BaseUrl { url, shown })
    }

    /// Sends no user-info any more: an API key takes its place, since both want the one `Authorization` header.
    pub(super) fn drop_user(&mut self) {
        self.url = without_user(&self.url);
    }

    /// A route below the base: `api("completions")` is `…/v1/completions`.
    pub(super) fn api(&self, route: &str) -> Url {
        self.with_path(format!("{}/{route}", self.url.path()))
    }

    /// A route of the server outside `/v1`: `root("version")`.
    pub(super) fn root(&self, route: &str) -> Url {
        let path = self.url.path();
        self.with_path(format!("{}/{route}", path.strip_suffix("/v1").unwrap_or(path)))
    }

    fn with_path(&self, path: String) -> Url {
        let mut url = self.url.clone();
        url.set_path(&path);
        url
    }

    /// Whether the host is this machine: a proxy is never asked for it.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The password in the URL, which must not be shown.
    pub(super) fn password(&self) -> Option<&str> {
        self.url.password()
    }

    /// Host name, for recognising hosted services.
    pub(super) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

/// What may be shown of a text that is perhaps a URL: what stands before the last @ may be a password.
pub(super) fn without_secret(text: &str) -> &str {
    text.rsplit('@').next().unwrap_or_default()
}

fn without_user(url: &Url) -> Url {
    let mut url = url.clone();
    // Neither can fail on a URL with a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_leads_to_the_same_route() {
        for (text, completions, version) in [
            ("http://h:8000/v1", "http://h:8000/v1/completions", "http://h:8000/version"),
            ("http://h:8000/v1/", "http://h:8000/v1/completions", "http://h:8000/version"),
            ("http://h:8000", "http://h:8000/v1/completions", "http://h:8000/version"),
            (" http://h:8000/v1/completions ", "http://h:8000/v1/completions", "http://h:8000/version"),
            ("http://h/v1/chat/completions", "http://h/v1/completions", "http://h/version"),
            ("https://h/team/v1", "https://h/team/v1/completions", "https://h/team/version"),
            ("https://h/openai", "https://h/openai/completions", "https://h/openai/version"),
        ] {
            let base = BaseUrl::parse(text).unwrap();
            assert_eq!(base.api("completions").as_str(), completions, "{text}");
            assert_eq!(base.root("version").as_str(), version, "{text}");
        }
    }

    #[test]
    fn user_info_is_sent_but_never_shown() {
        let base = BaseUrl::parse("https://me:hunter2@h/v1").unwrap();
        assert_eq!(base.api("models").password(), Some("hunter2"));
        assert_eq!(format!("{base} {base:?}"), "https://h/v1 https://h/v1");
    }

    #[test]
    fn what_is_no_base_url_is_named_without_its_secret() {
        for text in ["h:8000", "ftp://h/v1", "", "http://", "me:hunter2@h:8000/v1", "http://me:hunter2@h:99999/v1", "http://h/v1?key=1"] {
            let error = BaseUrl::parse(text).unwrap_err();
            assert!(error.message.starts_with("base URL `"), "{}", error.message);
            assert!(!error.message.contains("hunter2"), "{}", error.message);
            assert!(error.hint.is_some());
        }
    }

    #[test]
    fn loopback_is_recognised() {
        for (text, expected) in [
            ("http://localhost:1/v1", true),
            ("http://127.0.0.9:1", true),
            ("http://[::1]:1", true),
            ("http://10.0.0.1:1", false),
            ("http://localhost.example:1", false),
        ] {
            assert_eq!(BaseUrl::parse(text).unwrap().is_loopback(), expected, "{text}");
        }
    }
}
