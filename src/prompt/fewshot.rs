//! Which documents are asked, in which order, and which shots stand before each: a closed list of rules, each named after what it
//! reproduces. Drawn over the whole split, before any limit or shard.

use super::{
    fit::{self, FitError},
    pyrandom::PyRandom,
    requests,
};
use crate::engine::ModelFacts;
use crate::task::{
    Arrange, Choose, Fit, Task,
    document::{Document, same_record},
    load::TaskError,
};
use serde_json::Value;
use std::sync::Arc;

/// The documents of a task in the protocol's order, each with its shots in prompt order.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// Documents that are evaluated; their ids are their positions.
    pub documents: Vec<Document>,
    /// Shots of the document at the same position. Equal lists are one list.
    pub shots: Vec<Arc<Vec<Document>>>,
    /// What the generator drew for the document at the same position: indices into the pool, a list a draw. Empty where shots are not drawn
    /// for each document.
    pub draws: Vec<Vec<Vec<usize>>>,
    /// Documents the shots could have come from (upstream's `train` file).
    pub pool: usize,
    /// Documents that are neither asked nor shown (upstream's `dev` file).
    pub unused: usize,
}

/// Why shots cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// The pool is too small.
    #[error("task '{task}' needs {needed} shots, but its pool '{pool}' has {available} documents")]
    TooFew {
        /// Task name.
        task: String,
        /// Shots wanted.
        needed: usize,
        /// Name of the pool.
        pool: String,
        /// Documents in it.
        available: usize,
    },
    /// A prompt cannot be rendered.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A prompt cannot be fitted to the model.
    #[error(transparent)]
    Fit(#[from] FitError),
}

/// Names of the splits or subsets whose documents [`draw`] wants, in its order.
pub fn splits(task: &Task) -> Vec<String> {
    match &task.file.arrange {
        Arrange::FileOrder { eval } => vec![eval.clone()],
        Arrange::LlmJpEval { eval, shots, .. } => vec![eval.clone(), shots.clone()],
        Arrange::LmEval { eval, shots, .. } if !task.file.subset.is_empty() => {
            let of_subset = |name: &String| [format!("{name}/{eval}"), format!("{name}/{shots}")];
            task.file.subset.iter().flat_map(|s| of_subset(&s.name)).collect()
        }
        Arrange::JpHarness { eval, shots, .. } | Arrange::LmEval { eval, shots, .. } if eval == shots => vec![eval.clone()],
        Arrange::JpHarness { eval, shots, .. } | Arrange::LmEval { eval, shots, .. } => vec![eval.clone(), shots.clone()],
        Arrange::LlmJpEvalJmmlu { .. } => task.file.subset.iter().map(|s| s.name.clone()).collect(),
        Arrange::FastChat { questions, references, .. } => vec![questions.clone(), references.clone()],
    }
}

/// Arranges documents and shots. `sets` are the documents of [`splits`], in that order; `count` is the number of shots.
///
/// # Errors
/// [`DrawError`].
pub fn draw(task: &Task, mut sets: Vec<Vec<Document>>, count: usize, facts: &ModelFacts) -> Result<Drawn, DrawError> {
    let available: usize = sets.iter().map(Vec::len).sum();
    let (mut documents, mut pool, pool_name) = match &task.file.arrange {
        Arrange::FileOrder { eval } => (sets.swap_remove(0), Vec::new(), eval.clone()),
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
        Arrange::JpHarness { seed, fit, .. } => return jp_harness(task, sets, count, *seed, fit, facts),
        Arrange::LmEval { choose, .. } => return lm_eval(task, sets, count, choose),
        Arrange::FastChat { id, .. } => {
            let references = sets.pop().unwrap_or_default();
            (fast_chat(task, sets.pop().unwrap_or_default(), &references, id), Vec::new(), String::new())
        }
    };
    let pool_size = pool.len();
    if pool_size < count {
        return Err(DrawError::TooFew { task: task.name.clone(), needed: count, pool: pool_name, available: pool_size });
    }
    pool.truncate(count);
    let shots = Arc::new(pool);
    number(&mut documents);
    let shots = vec![shots; documents.len()];
    let unused = available.saturating_sub(documents.len() + pool_size);
    Ok(Drawn { documents, shots, draws: Vec::new(), pool: pool_size, unused })
}

/// FastChat `llm_judge`: questions in file order, each with the reference answers of the same id as its field `reference_turns`.
fn fast_chat(task: &Task, mut questions: Vec<Document>, references: &[Document], id: &str) -> Vec<Document> {
    let category = task.file.request.chat.as_ref().map(|c| c.category.as_str()).unwrap_or_default();
    for question in &mut questions {
        let key = question.fields.get(id).cloned();
        let answers = references.iter().find(|r| r.fields.get(id) == key.as_ref()).and_then(|r| r.fields.get("choices"));
        let turns = answers.and_then(|choices| choices.get(0)?.get("turns")).cloned().unwrap_or_default();
        question.group = question.fields.get(category).and_then(Value::as_str).unwrap_or_default().to_owned();
        question.fields.insert("reference_turns".into(), turns);
    }
    questions
}

fn number(documents: &mut [Document]) {
    for (position, document) in documents.iter_mut().enumerate() {
        document.id = format!("{position:05}");
    }
}

/// JP harness `lm_eval/evaluator.py:211-255` and `lm_eval/base.py:708-741`: one stream for the order and for all draws, so a document's
/// shots depend on every document before it.
fn jp_harness(
    task: &Task,
    mut sets: Vec<Vec<Document>>,
    count: usize,
    seed: u64,
    fit: &Fit,
    facts: &ModelFacts,
) -> Result<Drawn, DrawError> {
    let own_pool = sets.len() == 1;
    let mut documents = sets.swap_remove(0);
    let pool: Vec<Document> = if own_pool { documents.clone() } else { sets.swap_remove(0) };
    // A pool that holds the document itself gives one more, so that enough are left when that one is dropped.
    let spare = usize::from(own_pool);
    if count > 0 && pool.len() < count + spare {
        return Err(DrawError::TooFew {
            task: task.name.clone(),
            needed: count + spare,
            pool: splits(task).pop().unwrap_or_default(),
            available: pool.len(),
        });
    }
    let mut random = PyRandom::seeded(seed);
    random.shuffle(&mut documents);
    number(&mut documents);
    let (mut shots, mut draws) = (Vec::with_capacity(documents.len()), Vec::with_capacity(documents.len()));
    for document in &documents {
        let mut drawn = Vec::new();
        let chosen = loop {
            let wanted = count.saturating_sub(drawn.len());
            if wanted == 0 {
                break Vec::new();
            }
            let indices = random.sample_indices(pool.len(), wanted + spare);
            let others = indices.iter().map(|i| &pool[*i]).filter(|shot| !own_pool || shot.fields != document.fields);
            let chosen: Vec<Document> = others.take(wanted).cloned().collect();
            drawn.push(indices);
            if *fit != Fit::FewerShots
                || fit::fits(&requests::render(task, document, &chosen)?, &task.file.request, facts).map_err(FitError::from)?
            {
                break chosen;
            }
        };
        shots.push(Arc::new(chosen));
        draws.push(drawn);
    }
    Ok(Drawn { documents, shots, draws, pool: pool.len(), unused: 0 })
}

/// lm-eval v0.4.2: every subset by itself, with its own stream. `count` shots are drawn for each document, and `spare` more, so that enough
/// are left where the document itself is among them.
fn lm_eval(task: &Task, sets: Vec<Vec<Document>>, count: usize, choose: &Choose) -> Result<Drawn, DrawError> {
    let names = splits(task);
    let own_pool = names.len() == 1;
    let mut all = Drawn { documents: Vec::new(), shots: Vec::new(), draws: Vec::new(), pool: 0, unused: 0 };
    let mut sets = sets.into_iter();
    let mut names = names.into_iter();
    while let Some(mut documents) = sets.next() {
        let of_eval = names.next().unwrap_or_default();
        let (pool, pool_name) =
            if own_pool { (documents.clone(), of_eval) } else { (sets.next().unwrap_or_default(), names.next().unwrap_or_default()) };
        let drawn = match choose {
            Choose::First => count,
            Choose::Sample { spare, .. } => {
                if count == 0 {
                    0
                } else {
                    count + spare
                }
            }
        };
        if !documents.is_empty() && pool.len() < drawn {
            return Err(DrawError::TooFew { task: task.name.clone(), needed: drawn, pool: pool_name, available: pool.len() });
        }
        let mut random = match choose {
            Choose::First => None,
            Choose::Sample { seed, .. } => Some(PyRandom::seeded(*seed)),
        };
        let mut last: Option<(Vec<usize>, Arc<Vec<Document>>)> = None;
        for document in &documents {
            let indices = match &mut random {
                Some(random) if drawn > 0 => random.sample_indices(pool.len(), drawn),
                _ => (0..drawn).collect(),
            };
            let others = indices.iter().filter(|i| !same_record(&pool[**i], document)).take(count);
            let used: Vec<usize> = others.copied().collect();
            let shots = match &last {
                Some((same, shots)) if *same == used => shots.clone(),
                _ => Arc::new(used.iter().map(|i| pool[*i].as_shot()).collect()),
            };
            last = Some((used, shots.clone()));
            all.shots.push(shots);
            all.draws.push(vec![indices]);
        }
        all.pool += pool.len();
        all.documents.append(&mut documents);
    }
    number(&mut all.documents);
    Ok(all)
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
        (0..n).map(|i| Document { row: i, input: i.to_string(), ..Document::default() }).collect()
    }

    fn task(name: &str) -> Task {
        load::find(&load::embedded().expect("valid"), name).expect("known").clone()
    }

    #[test]
    fn shots_are_the_first_of_the_shuffled_pool() {
        let drawn = draw(&task("jcommonsenseqa"), vec![documents(3), documents(8939)], 4, &ModelFacts::default()).expect("enough");
        let shots: Vec<&str> = drawn.shots[2].iter().map(|d| d.input.as_str()).collect();
        assert_eq!(shots, ["1011", "4986", "4239", "1005"]);
        assert_eq!(drawn.documents[2].id, "00002");
    }

    #[test]
    fn too_small_a_pool_is_an_error() {
        let error =
            draw(&task("jemhopqa"), vec![documents(3), documents(4)], 4, &ModelFacts::default()).expect_err("int(4 * 0.9) = 3").to_string();
        assert_eq!(error, "task 'jemhopqa' needs 4 shots, but its pool 'train' has 3 documents");
    }

    #[test]
    fn shots_are_drawn_again_one_fewer_each_time_until_they_fit() {
        let file = |name: &str| crate::engine::demo::FILES.iter().find(|(n, _)| *n == name).expect("built in").1;
        let tokenizer = crate::text::tokenizer::Tokenizer::from_bytes(file("tokenizer.json"), None, None).expect("valid");
        let mut task = task("mgsm");
        task.file.request.max_new_tokens = 10;
        let facts = ModelFacts { tokenizer: Some(Arc::new(tokenizer)), max_positions: Some(110), ..ModelFacts::default() };
        let pool: Vec<Document> = documents(8).into_iter().map(|d| Document { output: "東京の天気は晴れ。".repeat(d.row), ..d }).collect();
        let drawn = draw(&task, vec![documents(40), pool.clone()], 4, &facts).expect("enough");
        let mut dropped = 0;
        for ((document, shots), draws) in drawn.documents.iter().zip(&drawn.shots).zip(&drawn.draws) {
            let sizes: Vec<usize> = draws.iter().map(Vec::len).collect();
            assert_eq!(sizes, (1..=4).rev().take(sizes.len()).collect::<Vec<_>>(), "{}", document.id);
            let fits = |shots: &[Document]| {
                let prompt = requests::render(&task, document, shots).expect("renders");
                fit::fits(&prompt, &task.file.request, &facts).expect("encodes")
            };
            let of_draw = |draw: &Vec<usize>| draw.iter().map(|i| pool[*i].clone()).collect::<Vec<_>>();
            let tried: Vec<bool> = draws.iter().map(|draw| fits(&of_draw(draw))).collect();
            let (last, before) = tried.split_last().expect("a draw");
            assert!(before.iter().all(|fitted| !fitted), "{}: an earlier draw would have done", document.id);
            assert_eq!(shots.len(), if *last { sizes.len().abs_diff(5) } else { 0 }, "{}", document.id);
            dropped += before.len();
        }
        assert!(dropped > 0 && drawn.shots.iter().any(|shots| shots.len() == 4), "some are too long and some are not");
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
