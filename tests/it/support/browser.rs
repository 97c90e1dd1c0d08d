//! A headless Chromium driven over the WebDriver protocol (W3C), by its own chromedriver. Real pages, real clicks, real keys.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// What makes Chromium quiet and lets it run inside a container.
const FLAGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--force-color-profile=srgb",
];

/// A browser with one window; it ends with the value.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// Kept open: a driver whose words nobody reads ends.
    _said: Lines<BufReader<ChildStdout>>,
    _profile: TempDir,
}

impl Browser {
    /// A browser that has no network but files and loopback, or `None` after saying that the test is skipped.
    #[expect(clippy::disallowed_methods, reason = "a test may start a browser")]
    pub(crate) fn start() -> Option<Browser> {
        let profile = tempfile::tempdir().unwrap();
        let started = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut driver) = started else {
            eprintln!("skipped: no chromium (chromedriver does not start)");
            return None;
        };
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = said
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse().ok());
        let port = port.expect("chromedriver says its port");
        let mut browser = Browser { driver, port, session: String::new(), _said: said, _profile: profile };
        let arguments: Vec<String> =
            FLAGS.map(str::to_owned).into_iter().chain([format!("--user-data-dir={}", browser._profile.path().display())]).collect();
        let options = json!({ "args": arguments });
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "performance": "ALL", "browser": "ALL" },
            "unhandledPromptBehavior": "ignore", "timeouts": { "script": 90_000 } });
        let session = browser.post("/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {session}")));
        // The browser's own start page is not ours.
        browser.command("/url", &json!({ "url": "about:blank" }));
        browser.requested();
        Some(browser)
    }

    /// Opens a file from disk and waits until the page says that it is ready.
    pub(crate) fn open(&self, page: &Path, hash: &str) {
        self.command("/url", &json!({ "url": "about:blank" }));
        self.command("/url", &json!({ "url": format!("file://{}{hash}", page.display()) }));
        self.wait("document.documentElement.dataset.ready === 'yes'");
    }

    /// The value of a JavaScript expression, which may be a promise.
    pub(crate) fn eval(&self, expression: &str) -> Value {
        self.command("/execute/sync", &json!({ "script": format!("return ({expression});"), "args": [] }))
    }

    /// Waits until an expression is true; a minute is for ever. By timer, since a page that nobody looks at may get no frames.
    pub(crate) fn wait(&self, expression: &str) {
        let script = format!(
            "const done = arguments[0], end = performance.now() + 60000;
             const look = () => {{ if ({expression}) done('yes'); else if (performance.now() > end) done('no'); else setTimeout(look, 20); }};
             look();"
        );
        let answer = self.command("/execute/async", &json!({ "script": script, "args": [] }));
        assert_eq!(answer, "yes", "waited in vain for: {expression}");
    }

    /// Presses keys, as a person does.
    pub(crate) fn press(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| [json!({ "type": "keyDown", "value": key.to_string() }), json!({ "type": "keyUp", "value": key.to_string() })])
            .collect();
        self.command("/actions", &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] }));
    }

    /// Clicks the middle of the element that a selector finds first.
    pub(crate) fn click(&self, selector: &str) {
        let found = self.command("/element", &json!({ "using": "css selector", "value": selector }));
        let id =
            found.as_object().and_then(|o| o.values().next()).and_then(Value::as_str).unwrap_or_else(|| panic!("no {selector}: {found}"));
        self.command(&format!("/element/{id}/click"), &json!({}));
    }

    /// Chooses in a `<select>`.
    pub(crate) fn choose(&self, id: &str, value: &str) {
        self.eval(&format!(
            "(() => {{ const e = document.getElementById('{id}'); e.value = '{value}'; e.dispatchEvent(new Event('change')); }})()"
        ));
    }

    /// Every URL that was asked for since the last time.
    pub(crate) fn requested(&self) -> Vec<String> {
        let entries = self.command("/se/log", &json!({ "type": "performance" }));
        let message = |entry: &Value| serde_json::from_str::<Value>(entry["message"].as_str()?).ok();
        let url = |message: Value| {
            let message = &message["message"];
            let sent = message["method"] == "Network.requestWillBeSent";
            sent.then(|| message["params"]["request"]["url"].as_str().map(str::to_owned)).flatten()
        };
        entries.as_array().unwrap().iter().filter_map(message).filter_map(url).collect()
    }

    /// What the page complained of.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let entries = self.command("/se/log", &json!({ "type": "browser" }));
        entries.as_array().unwrap().iter().map(|entry| entry["message"].to_string()).collect()
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        self.post(&format!("{}{path}", self.session), body)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", path, &body.to_string()).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value, String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all((head + body).as_bytes()).map_err(|e| e.to_string())?;
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).map_err(|e| e.to_string())?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| format!("bad length {value}"))?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        let answer: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        match answer["value"]["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", answer["value"]["message"])),
            None => Ok(answer["value"].clone()),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.ask("DELETE", &self.session, ""));
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}
