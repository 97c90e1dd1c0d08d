//! What the forward pass computes: logits, log-likelihoods, generations, stops, distributions.

use super::super::report::Folder;
use super::super::source::{CertifyError, Source};
use super::texts::cannot;
use super::{CLOSE, Totals, check_floats, parse, rows};
use crate::engine::llama::batch::{Listener, TokenFinish, TokenOutput, TokenRequest};
use crate::engine::llama::encode::{self, PairEncoding, Stops};
use crate::engine::llama::{Llama, ops::cpu, sample};
use crate::engine::{Bos, Decode, Sampling};
use crate::text::tokenizer::Special;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// Below this gap between the two best logits another order of additions may choose otherwise: for `is_greedy`, and for generated ids.
const OPEN_VERDICT: f32 = 1e-3;
const OPEN_CHOICE: f32 = 1e-4;

/// One answer given alone and the same one given among all others.
struct Both<T> {
    alone: T,
    together: T,
}

impl<T> Both<T> {
    fn map<U>(&self, f: impl Fn(&T) -> U) -> Both<U> {
        Both { alone: f(&self.alone), together: f(&self.together) }
    }
}

impl<T: PartialEq> Both<T> {
    /// The answer that is not `expected`, if any.
    fn unless(&self, expected: &T) -> &T {
        if self.together == *expected { &self.alone } else { &self.together }
    }
}

impl Both<f64> {
    /// The answer farther from `expected`.
    fn farther(&self, expected: f64) -> f64 {
        let distance = |x: f64| if x.is_nan() { f64::INFINITY } else { (x - expected).abs() };
        if distance(self.alone) > distance(self.together) { self.alone } else { self.together }
    }
}

/// Answers requests, with their stop strings where there are some.
fn run(llama: &mut Llama, requests: &[TokenRequest], stops: &[Stops]) -> Result<Vec<TokenOutput>, CertifyError> {
    let tokenizer = llama.tokenizer().clone();
    let mut outputs = vec![None; requests.len()];
    let stopped = |request: usize, new: &[u32]| stops.get(request).is_some_and(|s| s.reached(&tokenizer, requests[request].prompt(), new));
    let mut done = |request: usize, output| {
        outputs[request] = Some(output);
        ControlFlow::Continue(())
    };
    llama.run(requests, &mut Listener { stops: &stopped, done: &mut done, go_on: &|| true })?;
    let missing = || CertifyError::Data("the engine left a request without an answer".into());
    outputs.into_iter().map(|output| output.ok_or_else(missing)).collect()
}

fn run_both(llama: &mut Llama, requests: &[TokenRequest]) -> Result<Vec<Both<TokenOutput>>, CertifyError> {
    let together = run(llama, requests, &[])?;
    let alone = requests.iter().map(|request| Ok(run(llama, std::slice::from_ref(request), &[])?.remove(0)));
    let alone: Vec<TokenOutput> = alone.collect::<Result<_, CertifyError>>()?;
    Ok(alone.into_iter().zip(together).map(|(alone, together)| Both { alone, together }).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogitsCase {
    case: u32,
    ids: Vec<u32>,
    positions: Vec<u32>,
    argmax: Vec<u32>,
    logsumexp: Vec<f64>,
    #[serde(rename = "nll_sum_of_ids_1..")]
    nll: f64,
}

/// `logits_index.json` and `logits.safetensors`.
pub(super) fn logits(report: &mut Folder, index: &Source, tensors: &Path, llama: &mut Llama) -> Result<(), CertifyError> {
    let golden = GoldenLogits::read(tensors)?;
    let cases: Vec<LogitsCase> = parse(index, None, serde_json::from_str(&index.text()?).map_err(|e| index.shape(None, e.to_string()))?)?;
    if let Some(case) = golden.0.keys().find(|name| !cases.iter().any(|c| format!("case{}.logits", c.case) == **name)) {
        return Err(index.shape(None, format!("logits.safetensors has '{case}', which no case here names")));
    }
    let scored = cases.iter().filter(|c| c.ids.len() > 1);
    let requests = scored.map(|c| TokenRequest::Score { context: vec![c.ids[0]], continuation: c.ids[1..].to_vec() });
    let mut sums = run_both(llama, &requests.collect::<Vec<_>>())?.into_iter();
    for case in &cases {
        let name = format!("case{}", case.case);
        let file = index.name.as_str();
        report.rows += 1;
        let rows = llama.logits(&case.ids, &case.positions)?;
        let argmax: Vec<u32> = rows.iter().map(|r| cpu::choose(r).argmax).collect();
        report.check_value(file, &name, "argmax", &json!(case.argmax), &json!(argmax));
        // The log-probability of any token less its logit is what the softmax divides by.
        let logsumexp: Vec<f64> = rows.iter().map(|r| cpu::log_sum_exp(r)).collect();
        check_floats(report, file, &name, "logsumexp", &case.logsumexp, &logsumexp, CLOSE);
        let nll = if case.ids.len() > 1 { sums.next().map(|both| both.map(|o| 0.0 - total(o))) } else { None };
        let nll = nll.map_or(0.0, |both| both.farther(case.nll));
        report.check_close(file, &name, "nll_sum_of_ids_1..", case.nll, nll, CLOSE * case.ids.len() as f64);
        let expected = golden.0.get(&format!("{name}.logits")).map(Vec::as_slice).unwrap_or_default();
        check_floats(report, "golden/logits.safetensors", &name, "logits", expected, &rows.concat(), CLOSE);
    }
    Ok(())
}

fn total(output: &TokenOutput) -> f64 {
    match output {
        TokenOutput::Scored { logprobs, .. } => logprobs.iter().sum(),
        TokenOutput::Generated { .. } => f64::NAN,
    }
}

/// The tensors of `logits.safetensors`, each flat.
struct GoldenLogits(BTreeMap<String, Vec<f32>>);

impl GoldenLogits {
    fn read(path: &Path) -> Result<Self, CertifyError> {
        let bytes = std::fs::read(path).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => CertifyError::Missing { path: path.to_owned() },
            _ => CertifyError::Read { path: path.to_owned(), cause },
        })?;
        let shape = |what: String| CertifyError::Shape { path: path.to_owned(), line: None, what };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| shape(e.to_string()))?;
        let mut all = BTreeMap::new();
        for (name, tensor) in tensors.tensors() {
            if tensor.dtype() != Dtype::F32 {
                return Err(shape(format!("tensor {name} must be F32, not {:?}", tensor.dtype())));
            }
            let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            all.insert(name, values.collect());
        }
        Ok(GoldenLogits(all))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    #[serde(rename = "id")]
    _id: String,
    #[serde(rename = "group")]
    _group: String,
    add_special_tokens: bool,
    encoding: String,
    context: String,
    continuation: String,
    context_ids: Vec<u32>,
    continuation_ids: Vec<u32>,
    input_len_after_truncation: usize,
    token_logprobs: Vec<f64>,
    logprob: f64,
    is_greedy: bool,
    greedy_ids: Vec<u32>,
    min_top2_gap: f64,
}

/// `loglikelihood.jsonl`. `prefix` stands in for an empty context.
pub(super) fn pairs(
    report: &mut Folder,
    source: &Source,
    llama: &mut Llama,
    prefix: Option<u32>,
    totals: &mut Totals,
) -> Result<(), CertifyError> {
    let goldens = rows::<Pair>(source)?;
    let window = llama.config().max_position_embeddings;
    let mut requests = Vec::new();
    for (row, golden) in &goldens {
        let bos = if golden.add_special_tokens { Bos::Tokenizer } else { Bos::Never };
        let (mut context, mut continuation, encoding) =
            encode::pair(llama.tokenizer(), &golden.context, &golden.continuation, bos, prefix).map_err(cannot)?;
        let encoding = match encoding {
            PairEncoding::Pair => "pair",
            PairEncoding::Separate => "separate",
            PairEncoding::PrefixToken => "prefix-token",
        };
        let file = source.name.as_str();
        report.check_text(file, row, "encoding", &golden.encoding, encoding);
        report.check_value(file, row, "context_ids", &json!(golden.context_ids), &json!(context));
        report.check_value(file, row, "continuation_ids", &json!(golden.continuation_ids), &json!(continuation));
        encode::cut_left(&mut context, &mut continuation, window);
        let fed = (context.len() + continuation.len()).saturating_sub(1);
        report.check_value(file, row, "input_len_after_truncation", &json!(golden.input_len_after_truncation), &json!(fed));
        if context.is_empty() || continuation.is_empty() {
            return Err(CertifyError::Data(format!("{file} {row}: nothing is left to score")));
        }
        requests.push(TokenRequest::Score { context, continuation });
    }
    for ((row, golden), both) in goldens.iter().zip(run_both(llama, &requests)?) {
        report.rows += 1;
        *totals.rows.entry("loglikelihood").or_default() += 1;
        check_pair(report, &source.name, row, golden, &both, totals);
    }
    Ok(())
}

fn check_pair(report: &mut Folder, file: &str, row: &str, golden: &Pair, both: &Both<TokenOutput>, totals: &mut Totals) {
    let scored = both.map(|output| match output {
        TokenOutput::Scored { logprobs, greedy, is_greedy, gap, .. } => (logprobs.clone(), greedy.clone(), *is_greedy, f64::from(*gap)),
        TokenOutput::Generated { .. } => (Vec::new(), Vec::new(), false, f64::NAN),
    });
    let sum = scored.map(|s| s.0.iter().sum::<f64>());
    let worse = if sum.farther(golden.logprob) == sum.alone { &scored.alone } else { &scored.together };
    check_floats(report, file, row, "token_logprobs", &golden.token_logprobs, &worse.0, CLOSE);
    report.check_close(file, row, "logprob", golden.logprob, sum.farther(golden.logprob), CLOSE);
    report.check_close(file, row, "min_top2_gap", golden.min_top2_gap, scored.map(|s| s.3).farther(golden.min_top2_gap), 2.0 * CLOSE);
    let (is_greedy, greedy) = (scored.map(|s| s.2), scored.map(|s| s.1.clone()));
    let other = (is_greedy.unless(&golden.is_greedy), greedy.unless(&golden.greedy_ids));
    let near_tie = scored.alone.3.min(scored.together.3) < f64::from(OPEN_VERDICT);
    let open = near_tie && other != (&golden.is_greedy, &golden.greedy_ids);
    if open {
        report.left_out.push(format!("{file} {row}: is_greedy and greedy_ids, a near tie"));
    } else {
        report.check_value(file, row, "is_greedy", &json!(golden.is_greedy), &json!(other.0));
        report.check_value(file, row, "greedy_ids", &json!(golden.greedy_ids), &json!(other.1));
    }
    totals.is_greedy += u64::from(is_greedy.together);
    totals.open_verdicts += u64::from(open);
    totals.sum_logprob += sum.together;
    totals.gap_loglikelihood = totals.gap_loglikelihood.min(scored.together.3);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldenGeneration {
    id: String,
    ignore_eos: bool,
    prompt: String,
    prompt_ids: Vec<u32>,
    max_new_tokens: usize,
    eos_token_ids: Vec<u32>,
    output_ids: Vec<u32>,
    finish: String,
    text: String,
    min_top2_gap: f64,
}

/// A generation that `stop.jsonl` cuts: how to ask for it, and what it was alone.
pub(super) struct Generation {
    prompt: Vec<u32>,
    request: TokenRequest,
    tokens: Vec<u32>,
    /// Whether a near tie leaves its tokens open.
    open: bool,
}

/// `generate.jsonl`.
pub(super) fn generations(
    report: &mut Folder,
    source: &Source,
    llama: &mut Llama,
    totals: &mut Totals,
) -> Result<BTreeMap<String, Generation>, CertifyError> {
    let file = source.name.as_str();
    let mut end_ids = llama.config().end_ids.clone();
    end_ids.sort_unstable();
    let goldens = rows::<GoldenGeneration>(source)?;
    let mut requests = Vec::new();
    for (row, golden) in &goldens {
        let prompt = encode::prompt(llama.tokenizer(), &golden.prompt, Bos::Tokenizer).map_err(cannot)?;
        report.check_value(file, row, "prompt_ids", &json!(golden.prompt_ids), &json!(prompt));
        report.check_value(file, row, "eos_token_ids", &json!(golden.eos_token_ids), &json!(end_ids));
        let end = if golden.ignore_eos { Vec::new() } else { end_ids.clone() };
        requests.push(TokenRequest::Generate { prompt, max_new: golden.max_new_tokens, end, sampling: Sampling::GREEDY, sample: 0 });
    }
    let answers = run_both(llama, &requests)?;
    let mut made = BTreeMap::new();
    for (((row, golden), request), both) in goldens.iter().zip(requests).zip(answers) {
        report.rows += 1;
        *totals.rows.entry("generate").or_default() += 1;
        let prompt = request.prompt().to_vec();
        let (tokens, open) = check_generation(report, file, row, golden, &both, llama, totals);
        made.insert(golden.id.clone(), Generation { prompt, request, tokens, open });
    }
    Ok(made)
}

/// Returns what was generated alone, and whether a near tie leaves it open.
fn check_generation(
    report: &mut Folder,
    file: &str,
    row: &str,
    golden: &GoldenGeneration,
    both: &Both<TokenOutput>,
    llama: &Llama,
    totals: &mut Totals,
) -> (Vec<u32>, bool) {
    let generated = both.map(|output| match output {
        TokenOutput::Generated { tokens, finish: TokenFinish::End, gap, .. } => (tokens.clone(), "eos", *gap),
        TokenOutput::Generated { tokens, finish: TokenFinish::Length, gap, .. } => (tokens.clone(), "length", *gap),
        _ => (Vec::new(), "another", f32::NAN),
    });
    let ids = generated.map(|g| g.0.clone());
    let open = generated.alone.2.min(generated.together.2) < OPEN_CHOICE && *ids.unless(&golden.output_ids) != golden.output_ids;
    if open {
        report.left_out.push(format!("{file} {row}: output_ids and what follows from them, a near tie"));
    } else {
        let worse = if generated.together.0 == golden.output_ids { &generated.alone } else { &generated.together };
        report.check_value(file, row, "output_ids", &json!(golden.output_ids), &json!(worse.0));
        report.check_text(file, row, "finish", &golden.finish, worse.1);
        let text = encode::answer(llama.tokenizer(), &golden.prompt_ids, &worse.0, Decode::Alone);
        report.check_text(file, row, "text", &golden.text, &text);
        let gap = generated.map(|g| f64::from(g.2)).farther(golden.min_top2_gap);
        report.check_close(file, row, "min_top2_gap", golden.min_top2_gap, gap, 2.0 * CLOSE);
    }
    totals.finish_eos += u64::from(generated.together.1 == "eos");
    totals.gap_generate = totals.gap_generate.min(f64::from(generated.together.2));
    (ids.alone, open)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    gen_id: String,
    stop: Vec<String>,
    text: String,
    stopped: bool,
}

/// `stop.jsonl`: the engine stops by itself, all generations at once; and looks for the stop at each token of the generation made alone.
pub(super) fn stops(
    report: &mut Folder,
    source: &Source,
    llama: &mut Llama,
    generations: &BTreeMap<String, Generation>,
    totals: &mut Totals,
) -> Result<(), CertifyError> {
    let (mut asked, mut requests, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    for (row, golden) in rows::<Stop>(source)? {
        let generation = generations.get(&golden.gen_id);
        let generation = generation.ok_or_else(|| source.shape(None, format!("gen_id {} is not in generate.jsonl", golden.gen_id)))?;
        requests.push(generation.request.clone());
        stops.push(Stops::new(golden.stop.iter().cloned(), Decode::Alone));
        asked.push((row, golden, generation));
    }
    let together = run(llama, &requests, &stops)?;
    let tokenizer = llama.tokenizer();
    for (((row, golden, generation), output), stops) in asked.into_iter().zip(together).zip(&stops) {
        report.rows += 1;
        *totals.rows.entry("stop").or_default() += 1;
        if generation.open {
            report.left_out.push(format!("{} {row}: text and stopped, a near tie", source.name));
            continue;
        }
        let TokenOutput::Generated { tokens, .. } = output else { continue };
        let (prompt, full) = (&generation.prompt, &generation.tokens);
        let enough = (1..full.len()).find(|n| stops.reached(tokenizer, prompt, &full[..*n])).unwrap_or(full.len());
        let both = Both { alone: stops.cut(tokenizer, prompt, &full[..enough]), together: stops.cut(tokenizer, prompt, &tokens) };
        let expected = (golden.text, golden.stopped);
        let (text, stopped) = both.unless(&expected);
        report.check_text(&source.name, &row, "text", &expected.0, text);
        report.check_value(&source.name, &row, "stopped", &json!(expected.1), &json!(stopped));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Distribution {
    prompt: String,
    ids: Vec<u32>,
    temperature: f64,
    top_k: u32,
    top_p: f64,
    support: usize,
    top: Vec<(u32, f64)>,
}

/// `sampling.jsonl`: which tokens may be drawn after a prompt and how probable they are.
pub(super) fn sampling(report: &mut Folder, source: &Source, llama: &mut Llama, totals: &mut Totals) -> Result<(), CertifyError> {
    const CLOSE_PROBABILITY: f64 = 1e-5;
    let file = source.name.as_str();
    for (row, golden) in rows::<Distribution>(source)? {
        report.rows += 1;
        *totals.rows.entry("sampling").or_default() += 1;
        let ids = llama.tokenizer().encode(&golden.prompt, Special::Add).map_err(cannot)?;
        report.check_value(file, &row, "ids", &json!(golden.ids), &json!(ids));
        let last = (ids.len().saturating_sub(1)) as u32;
        let logits = llama.logits(&ids, &[last])?.concat();
        let settings = Sampling { temperature: golden.temperature, top_k: golden.top_k, top_p: golden.top_p, ..Sampling::GREEDY };
        let distribution = sample::distribution(&logits, &settings);
        report.check_value(file, &row, "support", &json!(golden.support), &json!(distribution.len()));
        // By token, not by rank: two tokens of nearly the same probability may change places.
        let by_id: BTreeMap<u32, f64> = distribution.into_iter().collect();
        let expected: Vec<f64> = golden.top.iter().map(|(_, p)| *p).collect();
        let got: Vec<f64> = golden.top.iter().map(|(id, _)| by_id.get(id).copied().unwrap_or(0.0)).collect();
        check_floats(report, file, &row, "top", &expected, &got, CLOSE_PROBABILITY);
    }
    Ok(())
}
