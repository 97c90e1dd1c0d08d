//! Tables for people. A `table::Table` is made from scores (`one_run`, `many_runs`) and is the only input of every writer; a writer is a pure
//! function from table to text.
//!
//! Not here: files, terminals (the caller says how wide one is), and arithmetic beyond the difference of two cells.

pub mod csv;
pub mod html;
pub mod json;
pub mod junit;
pub mod latex;
pub mod leaderboard;
pub mod many_runs;
pub mod markdown;
pub mod one_run;
pub mod radar;
pub mod table;
pub mod terminal;
