//! Data sets in one file: `data export` and `data import`.
