use std::path::Path;
use swallow_eval::*;
fn main() {
    let a = std::env::args().nth(1).unwrap();
    let r = certify::run(Path::new(&a), &certify::Inputs { data: None, progress: &|_| {} });
    match r {
        Ok(r) => {
            for f in &r.folders {
                println!(
                    "{} rows {} fields {} mism {} left {:?} outside {:?}",
                    f.name,
                    f.rows,
                    f.fields(),
                    f.mismatches.len(),
                    f.left_out,
                    f.outside
                );
                for m in f.mismatches.iter().take(3) {
                    println!("   {m:?}")
                }
            }
            println!("{:?} {:?}", r.not_built, r.fixtures)
        }
        Err(e) => println!("ERR {e}"),
    }
}
