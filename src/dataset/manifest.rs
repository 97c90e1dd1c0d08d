//! `datasets/<name>.toml`: files, URLs, checksums, licence, citation.
