//! JUnit XML, in the form that GitHub, GitLab and Jenkins read: one suite, a case each.

use super::many_runs::NamedScores;
use crate::results::scores::TaskScore;
use quick_xml::{
    Writer,
    events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event},
};

/// One test case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Groups cases; viewers show it before the name.
    pub class: String,
    /// Name, unique in its class.
    pub name: String,
    /// How it went.
    pub outcome: Outcome,
}

/// How a case went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not as it should.
    Failed {
        /// One line.
        message: String,
        /// Details.
        text: String,
    },
    /// Nobody knows.
    Error {
        /// One line.
        message: String,
        /// Details.
        text: String,
    },
    /// Not tried.
    Skipped {
        /// Why.
        message: String,
    },
}

/// The cases of a recorded run, one a column: a number is a pass, documents without an answer are an error, a column without a number was not
/// tried. A run judges no number; `gate` does.
pub fn of_run(run: &NamedScores) -> Vec<Case> {
    let outcome = |task: &TaskScore| match (task.value, task.failed) {
        (None, _) => Outcome::Skipped { message: task.unavailable.clone().unwrap_or_else(|| "no number".to_owned()) },
        (Some(_), 0) => Outcome::Passed,
        (Some(_), failed) => Outcome::Error {
            message: format!("{failed} of {} documents have no answer", task.n),
            text: [&task.departures[..], &task.warnings].concat().join("\n"),
        },
    };
    let class = format!("{}.{}", run.scores.suite, run.run);
    run.scores.tasks.iter().map(|task| Case { class: class.clone(), name: task.title.clone(), outcome: outcome(task) }).collect()
}

/// The whole file.
pub fn render(suite: &str, cases: &[Case]) -> String {
    let mut out = Writer::new_with_indent(Vec::new(), b' ', 2);
    let count = |is: fn(&Outcome) -> bool| cases.iter().filter(|case| is(&case.outcome)).count().to_string();
    let totals = [
        ("name", clean(suite)),
        ("tests", cases.len().to_string()),
        ("failures", count(|o| matches!(o, Outcome::Failed { .. }))),
        ("errors", count(|o| matches!(o, Outcome::Error { .. }))),
        ("skipped", count(|o| matches!(o, Outcome::Skipped { .. }))),
    ];
    write(&mut out, Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)));
    write(&mut out, Event::Start(element("testsuites", &totals)));
    write(&mut out, Event::Start(element("testsuite", &totals)));
    for case in cases {
        let head = element("testcase", &[("classname", clean(&case.class)), ("name", clean(&case.name))]);
        match &case.outcome {
            Outcome::Passed => write(&mut out, Event::Empty(head)),
            Outcome::Failed { message, text } => with_body(&mut out, head, "failure", message, Some(text)),
            Outcome::Error { message, text } => with_body(&mut out, head, "error", message, Some(text)),
            Outcome::Skipped { message } => with_body(&mut out, head, "skipped", message, None),
        }
    }
    write(&mut out, Event::End(BytesEnd::new("testsuite")));
    write(&mut out, Event::End(BytesEnd::new("testsuites")));
    String::from_utf8(out.into_inner()).expect("made of strings") + "\n"
}

fn with_body(out: &mut Writer<Vec<u8>>, head: BytesStart<'_>, kind: &str, message: &str, text: Option<&String>) {
    write(out, Event::Start(head));
    let body = element(kind, &[("message", clean(message))]);
    match text {
        None => write(out, Event::Empty(body)),
        Some(text) => {
            write(out, Event::Start(body));
            write(out, Event::Text(BytesText::new(&clean(text))));
            write(out, Event::End(BytesEnd::new(kind)));
        }
    }
    write(out, Event::End(BytesEnd::new("testcase")));
}

fn element<'n>(name: &'n str, attributes: &[(&str, String)]) -> BytesStart<'n> {
    let mut start = BytesStart::new(name);
    attributes.iter().for_each(|(key, value)| start.push_attribute((*key, value.as_str())));
    start
}

/// Without the characters that XML 1.0 cannot hold, escaped or not.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if (c < ' ' && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}') { '\u{fffd}' } else { c })
        .collect()
}

fn write(out: &mut Writer<Vec<u8>>, event: Event<'_>) {
    out.write_event(event).expect("memory accepts every byte");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot() {
        let case = |name: &str, outcome| Case { class: "gate".into(), name: name.into(), outcome };
        let text = "00001 <b> & \u{1b}[1m".to_owned();
        let cases = [
            case("読解", Outcome::Passed),
            case("a\"b", Outcome::Failed { message: "less <than> it & was".into(), text: text.clone() }),
            case("c", Outcome::Error { message: "few".into(), text: "d".into() }),
            case("d", Outcome::Skipped { message: "absent".into() }),
        ];
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="swallow-eval" tests="4" failures="1" errors="1" skipped="1">
  <testsuite name="swallow-eval" tests="4" failures="1" errors="1" skipped="1">
    <testcase classname="gate" name="読解"/>
    <testcase classname="gate" name="a&quot;b">
      <failure message="less &lt;than&gt; it &amp; was">00001 &lt;b&gt; &amp; �[1m</failure>
    </testcase>
    <testcase classname="gate" name="c">
      <error message="few">d</error>
    </testcase>
    <testcase classname="gate" name="d">
      <skipped message="absent"/>
    </testcase>
  </testsuite>
</testsuites>
"#;
        assert_eq!(render("swallow-eval", &cases), expected);
    }
}
