use std::path::Path;
use swallow_eval::*;
fn main() {
    let a = std::env::args().nth(1).unwrap();
    let store = dataset::store::Store::mirror_only(Path::new("/work/shared/data"));
    let rec = |d: &str, s: &str| {
        let m = dataset::manifest::Manifest::builtin(d).map_err(|e| e.to_string())?;
        store.records(&m, s).map_err(|e| e.to_string())
    };
    let r = certify::run(Path::new(&a), &certify::Inputs { data: Some(&rec), progress: &|_| {} });
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
                    println!("   {}", format!("{m:?}").chars().take(1500).collect::<String>())
                }
            }
            println!("{:?} {:?}", r.not_built, r.fixtures)
        }
        Err(e) => println!("ERR {e}"),
    }
}
