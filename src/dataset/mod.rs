//! Data sets: what they are ([`manifest`]), how their files get here ([`fetch`]), how files become records ([`read`]).
//!
//! Knows no task, no prompt, no shot.

pub mod fetch;
pub mod manifest;
pub mod read;

use serde_json::{Map, Value};

/// One record of a data-set file: named fields, in file order.
#[derive(Clone, Debug, PartialEq)]
pub struct Record(pub Map<String, Value>);
