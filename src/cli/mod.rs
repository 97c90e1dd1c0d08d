//! Verbs, flags, messages, exit codes. The only room that prints.

pub mod exit;
pub mod report;
