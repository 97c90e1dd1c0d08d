//! File formats to [`Record`](super::Record)s.
