//! Which documents are asked, in which order, and which shots stand before each: a closed list of rules, each named after what it
//! reproduces. Drawn over the whole split, before any limit or shard.

use super::pyrandom::PyRandom;
use crate::task::{Arrange, Task, document::Document};
use std::sync::Arc;

/// The documents of a task in the protocol's order, each with its shots in prompt order.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// Documents that are evaluated; their ids are their positions.
    pub documents: Vec<Document>,
    /// Shots of the document at the same position. Equal lists are one list.
    pub shots: Vec<Arc<Vec<Document>>>,
    /// Documents the shots could have come from (upstream's `train` file).
    pub pool: usize,
    /// Documents that are neither asked nor shown (upstream's `dev` file).
    pub unused: usize,
}

/// Why shots cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[error("task '{task}' needs {needed} shots, but its pool '{pool}' has {available} documents")]
pub struct TooFewShots {
    task: String,
    needed: usize,
    pool: String,
    available: usize,
}

/// Names of the splits or subsets whose documents [`draw`] wants, in its order.
pub fn splits(task: &Task) -> Vec<String> {
    match &task.file.arrange {
        Arrange::LlmJpEval { eval, shots, .. } => vec![eval.clone(), shots.clone()],
        Arrange::LlmJpEvalJmmlu { .. } => task.file.subset.iter().map(|s| s.name.clone()).collect(),
    }
}

/// Arranges documents and shots. `sets` are the documents of [`splits`], in that order; `count` is the number of shots.
///
/// # Errors
/// [`TooFewShots`].
pub fn draw(task: &Task, mut sets: Vec<Vec<Document>>, count: usize) -> Result<Drawn, TooFewShots> {
    let available: usize = sets.iter().map(Vec::len).sum();
    let (mut documents, mut pool, pool_name) = match &task.file.arrange {
        Arrange::LlmJpEval { seed, shots, .. } => {
            let mut pool = sets.pop().unwrap_or_default();
            PyRandom::seeded(*seed).shuffle(&mut pool);
            // The last tenth of the shuffled records is upstream's dev file (datasets/*.py: `int(n * 0.9)`), never shown.
            pool.truncate((pool.len() as f64 * 0.9) as usize);
            (sets.pop().unwrap_or_default(), pool, shots.clone())
        }
        Arrange::LlmJpEvalJmmlu { seed, shots_of_each } => {
            let (documents, pool) = carve(sets, *seed, *shots_of_each);
            (documents, pool, "subsets".to_owned())
        }
    };
    let pool_size = pool.len();
    if pool_size < count {
        return Err(TooFewShots { task: task.name.clone(), needed: count, pool: pool_name, available: pool_size });
    }
    pool.truncate(count);
    let shots = Arc::new(pool);
    for (position, document) in documents.iter_mut().enumerate() {
        document.id = format!("{position:05}");
    }
    let shots = vec![shots; documents.len()];
    let unused = available - documents.len() - pool_size;
    Ok(Drawn { documents, shots, pool: pool_size, unused })
}

/// llm-jp-eval v1.3.0 `jmmlu.py:86-119`. Returns evaluated documents and the shot pool.
fn carve(subsets: Vec<Vec<Document>>, seed: u64, of_each: usize) -> (Vec<Document>, Vec<Document>) {
    let mut random = PyRandom::seeded(seed);
    let (mut dev, mut test) = (Vec::new(), Vec::new());
    for mut subset in subsets {
        random.shuffle(&mut subset);
        let rest = subset.split_off(subset.len() / 2);
        dev.extend(subset);
        test.extend(rest);
    }
    random.shuffle(&mut dev);
    random.shuffle(&mut test);
    let evaluated = test.split_off(of_each.min(test.len()));
    dev.truncate(of_each);
    dev.extend(test);
    (evaluated, dev)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::load;

    fn documents(n: usize) -> Vec<Document> {
        (0..n)
            .map(|i| Document {
                id: String::new(),
                row: i,
                fields: Default::default(),
                input: i.to_string(),
                output: String::new(),
                subset: String::new(),
                group: String::new(),
            })
            .collect()
    }

    fn task(name: &str) -> Task {
        load::find(&load::embedded().expect("valid"), name).expect("known").clone()
    }

    #[test]
    fn shots_are_the_first_of_the_shuffled_pool() {
        let drawn = draw(&task("jcommonsenseqa"), vec![documents(3), documents(8939)], 4).expect("enough");
        let shots: Vec<&str> = drawn.shots[2].iter().map(|d| d.input.as_str()).collect();
        assert_eq!(shots, ["1011", "4986", "4239", "1005"]);
        assert_eq!(drawn.documents[2].id, "00002");
    }

    #[test]
    fn too_small_a_pool_is_an_error() {
        let error = draw(&task("jemhopqa"), vec![documents(3), documents(4)], 4).expect_err("int(4 * 0.9) = 3").to_string();
        assert_eq!(error, "task 'jemhopqa' needs 4 shots, but its pool 'train' has 3 documents");
    }

    #[test]
    fn the_carve_never_shows_what_it_asks() {
        let subsets: Vec<_> = (0..5)
            .map(|s| {
                let mut set = documents(20 + s);
                set.iter_mut().for_each(|d| d.input = format!("{s}/{}", d.input));
                set
            })
            .collect();
        let (asked, pool) = carve(subsets, 42, 16);
        assert_eq!(pool.len(), 32);
        assert_eq!(asked.len(), (10 + 11 + 11 + 12 + 12) - 16);
        assert!(asked.iter().all(|d| pool.iter().all(|p| p.input != d.input)));
    }
}
