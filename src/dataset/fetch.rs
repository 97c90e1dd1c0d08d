//! Downloads with resume, checksum and mirror.
