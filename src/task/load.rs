//! Task and suite files, embedded or from `--include-path`.
