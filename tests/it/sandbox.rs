//! Programs of strangers: what the sandbox says of them, and what they cannot do.

use std::{path::Path, sync::atomic::AtomicBool};
use swallow_eval::sandbox::{Executed, Level, Options, Sandbox};

fn sandbox(level: Level) -> Option<Sandbox> {
    let mut options = Options::new(env!("CARGO_BIN_EXE_swallow-eval").into());
    options.levels = vec![level];
    options.python = std::env::var_os("SWALLOW_EVAL_PYTHON").map(Into::into);
    match Sandbox::choose(&options) {
        Ok(sandbox) => Some(sandbox),
        Err(e) => {
            println!("skipped: {e}");
            None
        }
    }
}

fn run(sandbox: &Sandbox, programs: &[&str]) -> Vec<Executed> {
    let mut found = vec![None; programs.len()];
    sandbox.execute(programs, &AtomicBool::new(false), &mut |i, e| found[i] = Some(e)).expect("executes");
    found.into_iter().map(|e| e.expect("every program has a verdict")).collect()
}

#[test]
fn smoke() {
    for level in [Level::Namespaces, Level::Landlock] {
        let Some(sandbox) = sandbox(level) else { continue };
        println!("{:?}", sandbox.identity());
        println!("{:?}", run(&sandbox, &["pass", "assert False, 'no'", "import os; os._exit(0)", "import shutil; shutil.rmtree('x')"]));
    }
    let _ = Path::new("");
}
