//! Answers from a recorded journal.
