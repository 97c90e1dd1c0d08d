//! OpenAI-compatible servers.
