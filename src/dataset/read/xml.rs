//! XML elements of one name to records.

use super::{Broken, Record, XmlList};
use quick_xml::{
    Reader, XmlVersion,
    events::{BytesRef, BytesStart, Event},
};
use serde_json::{Map, Value};

/// Names of the elements and attributes that become fields.
pub(super) struct Shape<'m> {
    pub record: &'m str,
    pub id: &'m str,
    pub text: &'m str,
    pub list: &'m XmlList,
}

/// One record for every element of that name, wherever it stands.
pub(super) fn records(content: &[u8], shape: &Shape<'_>) -> Result<Vec<Record>, Broken> {
    let text = std::str::from_utf8(content).map_err(|e| Broken::at(format!("byte {}", e.valid_up_to()), "not UTF-8"))?;
    let mut reader = Reader::from_str(text);
    let mut builder = Builder { shape, path: Vec::new(), current: None, records: Vec::new() };
    loop {
        let at = reader.buffer_position() as usize;
        let place = || format!("line {}", 1 + text[..text.floor_char_boundary(at)].matches('\n').count());
        match reader.read_event().map_err(|e| Broken::at(place(), e))? {
            Event::Start(element) => builder.open(&element).map_err(|cause| Broken::at(place(), cause))?,
            Event::Empty(element) => {
                builder.open(&element).map_err(|cause| Broken::at(place(), cause))?;
                builder.close();
            }
            Event::End(_) => builder.close(),
            Event::Text(text) => builder.text(&text.xml10_content()),
            Event::CData(text) => builder.text(&text.xml10_content()),
            Event::GeneralRef(reference) => builder.text(&resolved(&reference).map_err(|cause| Broken::at(place(), cause))?),
            Event::Eof if builder.path.is_empty() => return Ok(builder.records),
            Event::Eof => return Err(Broken::at(place(), format!("the file ends inside <{}>", builder.path.join("><")))),
            _ => {}
        }
    }
}

/// The text a reference stands for: a character number or one of XML's five names.
fn resolved(reference: &BytesRef<'_>) -> Result<String, String> {
    let name = reference.xml10_content();
    match reference.resolve_char_ref() {
        Ok(Some(c)) => Ok(c.to_string()),
        Ok(None) => {
            quick_xml::escape::resolve_predefined_entity(&name).map(str::to_owned).ok_or_else(|| format!("unknown entity &{name};"))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// The elements that are open, and the record that is being filled.
struct Builder<'s> {
    shape: &'s Shape<'s>,
    path: Vec<String>,
    current: Option<Map<String, Value>>,
    records: Vec<Record>,
}

impl Builder<'_> {
    fn open(&mut self, element: &BytesStart<'_>) -> Result<(), String> {
        let name = String::from_utf8_lossy(element.name().as_ref().as_ref()).into_owned();
        if name == self.shape.record && self.current.is_none() {
            let id = element.try_get_attribute(self.shape.id).map_err(|e| e.to_string())?;
            let id = id.ok_or_else(|| format!("<{name}> has no attribute '{}'", self.shape.id))?;
            let id = id.normalized_value(XmlVersion::Implicit1_0).map_err(|e| e.to_string())?.into_owned();
            let list = Value::Array(Vec::new());
            let fields = [(self.shape.id, Value::from(id)), (self.shape.text, "".into()), (self.shape.list.name.as_str(), list)];
            self.current = Some(Map::from_iter(fields.map(|(key, value)| (key.to_owned(), value))));
        }
        self.path.push(name);
        if self.in_item()
            && let Some(Value::Array(items)) = self.field(&self.shape.list.name)
        {
            items.push("".into());
        }
        Ok(())
    }

    fn close(&mut self) {
        if self.path.pop().is_some_and(|name| name == self.shape.record)
            && !self.path.iter().any(|name| name == self.shape.record)
            && let Some(fields) = self.current.take()
        {
            self.records.push(Record(fields));
        }
    }

    fn text(&mut self, more: &str) {
        let target = if self.in_item() {
            match self.field(&self.shape.list.name) {
                Some(Value::Array(items)) => items.last_mut(),
                _ => None,
            }
        } else if self.ends_with(&[self.shape.record, self.shape.text]) {
            self.field(self.shape.text)
        } else {
            None
        };
        if let Some(Value::String(text)) = target {
            text.push_str(more);
        }
    }

    fn field(&mut self, name: &str) -> Option<&mut Value> {
        self.current.as_mut()?.get_mut(name)
    }

    fn in_item(&self) -> bool {
        self.ends_with(&[self.shape.record, &self.shape.list.name, &self.shape.list.item])
    }

    fn ends_with(&self, names: &[&str]) -> bool {
        self.path.len() >= names.len() && self.path[self.path.len() - names.len()..].iter().zip(names).all(|(a, b)| a == b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Vec<Value>, Broken> {
        let list = XmlList { name: "answers".into(), item: "answer".into() };
        let shape = Shape { record: "question", id: "id", text: "text", list: &list };
        records(text.as_bytes(), &shape).map(|records| records.into_iter().map(|r| Value::Object(r.0)).collect())
    }

    #[test]
    fn elements_become_records_with_raw_text() {
        let file = "<?xml version='1.0'?><questions>\n<question id=\"q&amp;&#49;\"><text>A &amp; B&#x3042; </text>\
                    <answers><answer>甲</answer><answer/><answer>　乙</answer></answers><meta><text>no</text></meta></question>\
                    <question id=\"q2\"><text><![CDATA[<x>]]></text><answers/></question></questions>";
        let expected =
            [json!({"id": "q&1", "text": "A & Bあ ", "answers": ["甲", "", "　乙"]}), json!({"id": "q2", "text": "<x>", "answers": []})];
        assert_eq!(read(file).expect("well-formed"), expected);
    }

    #[test]
    fn broken_files_say_where() {
        for (file, place, cause) in [
            ("<a>\n<question><text/></question></a>", "line 2", "no attribute 'id'"),
            ("<question id='&nbsp;'/>", "line 1", "nbsp"),
            ("<a>\n\n<b></a>", "line 3", "b"),
            ("<a>&nbsp;</a>", "line 1", "unknown entity &nbsp;"),
            ("<a><b>", "line 1", "ends inside <a><b>"),
        ] {
            let broken = read(file).expect_err(file);
            assert!(broken.place == place && broken.cause.contains(cause), "{broken:?}");
        }
    }
}
