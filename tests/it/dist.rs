//! Several devices. One model over two or four: the goldens of the models and random shapes within the tolerances of one device, slices of
//! every kind of weight file, refusals. Whole models side by side: on the CPU's kernels the answers of one to the last bit. The flags, on the
//! built program.

use crate::contract;
use crate::models::run;
use crate::support::{desk::Desk, folder_of, random_model::Shape};
use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use swallow_eval::certify::models;
use swallow_eval::engine::llama::batch::{Limits, Listener, TokenOutput, TokenRequest};
use swallow_eval::engine::llama::dist::share::Share;
use swallow_eval::engine::llama::weights::{ModelFiles, Weights};
use swallow_eval::engine::llama::{Llama, LoadOptions, TensorOps};
use swallow_eval::engine::{Engine, Sampling, Stats};

fn micro() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/micro-llama")
}

fn options(device: &str, tensor: usize, data: usize) -> LoadOptions {
    LoadOptions {
        model: "test".into(),
        dtype: Some("f32".into()),
        device: Some(device.into()),
        tensor_parallel: NonZeroUsize::new(tensor),
        data_parallel: NonZeroUsize::new(data),
        ..LoadOptions::default()
    }
}

fn ids(len: usize, stride: usize) -> Vec<u32> {
    (0..len).map(|at| ((at * stride + at * at) % Shape::VOCABULARY) as u32).collect()
}

/// Scores, greedy generations and samples whose prompts share beginnings around the borders of pages.
fn requests(stride: usize) -> Vec<TokenRequest> {
    let generate = |(sample, len): (usize, &usize), temperature| TokenRequest::Generate {
        prompt: ids(*len, stride),
        max_new: 9,
        end: vec![7],
        sampling: Sampling { temperature, seed: 3, ..Sampling::GREEDY },
        sample: sample as u32,
    };
    let score = |(at, len): (usize, &usize)| TokenRequest::Score {
        context: ids(*len, stride),
        continuation: vec![at as u32 + 1, at as u32 + 2, (at * 7 % 400) as u32],
    };
    let lengths = [1usize, 30, 31, 32, 33, 50, 64, 65, 65];
    let asked = lengths.iter().enumerate();
    asked.clone().map(score).chain(asked.clone().map(|a| generate(a, 0.0))).chain(asked.map(|a| generate(a, 0.8))).collect()
}

// One model over several devices.

#[test]
fn two_devices_give_what_transformers_gives() {
    let mut folders = vec![micro()];
    if let Some(golden) = folder_of("SWALLOW_EVAL_GOLDEN") {
        folders.extend(["tiny-llama31", "tiny-llama31-bf16", "tiny-qwen2"].map(|name| golden.join("models").join(name)));
    }
    let eager = options("cpu-tensors", 2, 0);
    let fused = LoadOptions { tensor_ops: TensorOps::Fused, ..options("cpu-tensors", 2, 0) };
    let runs = folders.into_iter().map(|folder| (folder, &eager)).chain([(micro(), &fused)]);
    for (folder, options) in runs {
        let report = models::folder_with(&folder, options).unwrap();
        assert!(report.mismatches.is_empty(), "{}: {:#?}", folder.display(), report.mismatches);
        assert!(report.fields() > 30, "{}: {} fields", folder.display(), report.fields());
    }
}

#[test]
fn a_model_that_does_not_divide_is_refused_with_its_sizes() {
    let refused = |folder: &Path, ranks| Llama::load(folder, &options("cpu-tensors", ranks, 0)).err().unwrap();
    let error = refused(&micro(), 3);
    assert!(
        error.message.ends_with("cannot be split over 3 devices: num_key_value_heads 2 and intermediate_size 64 cannot be divided by 3"),
        "{error}"
    );
    assert!(error.hint.unwrap().starts_with("--tensor-parallel-size may be 1, 2 for this model"));
    let Some(golden) = folder_of("SWALLOW_EVAL_GOLDEN") else { return };
    let error = refused(&golden.join("models/tiny-llama-tied"), 2);
    assert!(error.message.ends_with("num_key_value_heads 1 cannot be divided by 2"), "{error}");
}

/// A shape whose feed-forward layer divides by four, with biases where asked.
#[derive(Debug)]
struct Even {
    shape: Shape,
    bias: bool,
}

impl Even {
    fn inner(&self) -> usize {
        4 * (self.shape.heads * self.shape.head_dim * 3 / 8)
    }

    fn config(&self) -> Value {
        let mut config = self.shape.config();
        config["intermediate_size"] = json!(self.inner());
        config["attention_bias"] = json!(self.bias);
        config
    }

    fn weights(&self) -> Vec<(String, Tensor)> {
        let cut = |(name, tensor): (String, Tensor)| {
            let tensor = match &name {
                name if name.contains("gate_proj") || name.contains("up_proj") => {
                    tensor.narrow(0, 0, self.inner()).unwrap().force_contiguous().unwrap()
                }
                name if name.contains("down_proj") => tensor.narrow(1, 0, self.inner()).unwrap().force_contiguous().unwrap(),
                _ => tensor,
            };
            (name, tensor)
        };
        let mut weights: Vec<(String, Tensor)> = self.shape.weights().into_iter().map(cut).collect();
        if self.bias {
            // The first column of a matrix is as good a vector as any.
            let of = |(name, tensor): &(String, Tensor)| {
                let name = name.strip_suffix(".weight").filter(|name| name.contains("self_attn"))?;
                Some((format!("{name}.bias"), tensor.narrow(1, 0, 1).unwrap().flatten_all().unwrap()))
            };
            let biases: Vec<_> = weights.iter().filter_map(of).collect();
            weights.extend(biases);
        }
        weights
    }

    fn folder(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(micro().join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
        std::fs::write(dir.path().join("config.json"), self.config().to_string()).unwrap();
        candle_core::safetensors::save(&self.weights().into_iter().collect(), dir.path().join("model.safetensors")).unwrap();
        dir
    }
}

fn evens() -> impl Strategy<Value = (Even, usize)> {
    let heads = prop::sample::select(vec![(2usize, 2usize, 2usize), (8, 2, 2), (4, 4, 4), (8, 4, 4), (8, 4, 2)]);
    let head_dim = prop::sample::select(vec![32usize, 64]);
    (heads, head_dim, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|((heads, kv_heads, ranks), head_dim, tied, llama3, bias)| {
        (Even { shape: Shape { heads, kv_heads, head_dim, tied, llama3 }, bias }, ranks)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// Logits and scores in f32, in steps of any size: as one device's kernels within the tolerances that one device of tensors has.
    #[test]
    fn several_devices_and_kernels_agree((even, ranks) in evens(), stride in 1..400usize, rows in 1..90usize, live in 1..5usize) {
        let folder = even.folder();
        let load = |options| Llama::load(folder.path(), &options).unwrap();
        let mut kernels = load(options("cpu", 0, 0));
        let mut split = load(LoadOptions { limits: Limits { rows, live, ..Limits::default() }, ..options("cpu-tensors", ranks, 0) });
        let all = ids(70, stride);
        for len in [1usize, 32, 33, 70] {
            let wanted = [len as u32 - 1];
            let (expected, got) = (kernels.logits(&all[..len], &wanted).unwrap().concat(), split.logits(&all[..len], &wanted).unwrap().concat());
            prop_assert_eq!(expected.len(), got.len());
            for (expected, got) in expected.iter().zip(&got) {
                prop_assert!((expected - got).abs() < 1e-4 * (1.0 + expected.abs()), "{:?}: {} {}", even.shape, expected, got);
            }
        }
        let scores: Vec<TokenRequest> = requests(stride).into_iter().filter(|r| matches!(r, TokenRequest::Score { .. })).collect();
        for (expected, got) in run(&mut kernels, &scores).0.iter().zip(&run(&mut split, &scores).0) {
            let (TokenOutput::Scored { logprobs: expected, .. }, TokenOutput::Scored { logprobs: got, .. }) = (expected, got) else {
                panic!("{expected:?} {got:?}")
            };
            for (expected, got) in expected.iter().zip(got) {
                prop_assert!((expected - got).abs() < 2e-4 * (1.0 + expected.abs()), "{:?}: {} {}", even.shape, expected, got);
            }
        }
    }
}

/// The sum over devices has the same bits at every run, whichever device is first.
#[test]
fn a_split_model_repeats_itself_and_names_its_split() {
    let mut first = Llama::load(&micro(), &options("cpu-tensors", 2, 0)).unwrap();
    let (answers, _) = run(&mut first, &requests(11));
    for _ in 0..3 {
        assert_eq!(run(&mut first, &requests(11)).0, answers);
    }
    assert_eq!(first.identity().short(), "llama-cpu-tensors-f32-tp2");
    let mut bf16 = Llama::load(&micro(), &LoadOptions { dtype: Some("bf16".into()), ..options("cpu-tensors", 2, 0) }).unwrap();
    assert_eq!(bf16.identity().short(), "llama-cpu-tensors-bf16-tp2");
    // Parts are rounded before they are summed: near the one device, and not the same.
    let mut one = Llama::load(&micro(), &LoadOptions { dtype: Some("bf16".into()), ..options("cpu-tensors", 1, 0) }).unwrap();
    let (split, whole) = (bf16.logits(&ids(40, 11), &[39]).unwrap().concat(), one.logits(&ids(40, 11), &[39]).unwrap().concat());
    let spread = (whole.iter().map(|l| l * l).sum::<f32>() / whole.len() as f32).sqrt();
    let farthest = whole.iter().zip(&split).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(farthest > 0.0 && farthest < 0.07 * spread, "{farthest} of {spread}");
}

#[test]
fn the_engine_contract_over_several_devices() {
    contract::cases(&mut Llama::load(&micro(), &options("cpu-tensors", 2, 0)).unwrap());
    contract::cases(&mut Llama::load(&micro(), &options("cpu", 0, 3)).unwrap());
    contract::cases(&mut Llama::load(&micro(), &options("cpu-tensors", 2, 2)).unwrap());
}

/// The parts of every tensor, put together, are the tensor: of one file, of shards, of GGUF in floats and in blocks, and of made-up weights.
#[test]
fn shares_of_every_kind_of_weights_are_slices_of_the_whole() {
    let even = Even { shape: Shape { heads: 8, kv_heads: 4, head_dim: 32, tied: false, llama3: false }, bias: false };
    let (config, weights, dir) = (even.config(), even.weights(), even.folder());
    let sharded = even.folder();
    let (first, second) = weights.split_at(weights.len() / 2);
    let mut map = serde_json::Map::new();
    for (file, part) in [("a.safetensors", first), ("b.safetensors", second)] {
        let part: Vec<_> = part.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(candle_core::DType::BF16).unwrap())).collect();
        map.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
        candle_core::safetensors::save(&part.into_iter().collect(), sharded.path().join(file)).unwrap();
    }
    std::fs::remove_file(sharded.path().join("model.safetensors")).unwrap();
    std::fs::write(sharded.path().join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    let mut files = vec![ModelFiles::open(dir.path()).unwrap(), ModelFiles::open(sharded.path()).unwrap()];
    for (name, dtype) in [("f32.gguf", GgmlDType::F32), ("q8.gguf", GgmlDType::Q8_0)] {
        let path = dir.path().join(name);
        crate::gguf::write(&path, &crate::gguf::metadata(&config), &config, &weights, dtype);
        files.push(ModelFiles::open(&path).unwrap());
    }
    for dtype in [candle_core::DType::BF16, candle_core::DType::F32].map(Some) {
        for files in &files {
            slices(&weights, &|| Weights::open(files, &Device::Cpu, dtype).unwrap());
        }
        slices(&weights, &|| Weights::random(&Device::Cpu, dtype));
    }
}

fn slices<'f>(weights: &[(String, Tensor)], open: &dyn Fn() -> Weights<'f>) {
    let numbers = |tensor: &Tensor| tensor.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, tensor) in weights.iter().filter(|(name, _)| !name.contains("layers.1")) {
        let whole = open().get(name, tensor.dims()).unwrap();
        // Three does not divide: parts differ in size and still cover everything.
        for of in [2, 3, 4] {
            let parts: Vec<Tensor> = Share::all(of).map(|share| open().of_share(share).rows(name, tensor.dims()).unwrap()).collect();
            assert_eq!(numbers(&Tensor::cat(&parts, 0).unwrap()), numbers(&whole), "rows of {name} over {of}");
            if tensor.rank() == 2 {
                let parts: Vec<Tensor> = Share::all(of).map(|share| open().of_share(share).columns(name, tensor.dims()).unwrap()).collect();
                assert!(parts.iter().all(|part| part.dims()[1] < tensor.dims()[1]));
                assert_eq!(numbers(&Tensor::cat(&parts, 1).unwrap()), numbers(&whole), "columns of {name} over {of}");
            }
        }
    }
}

// Whole models side by side.

#[test]
fn replicas_on_the_cpu_answer_as_one_to_the_last_bit() {
    let requests = requests(17);
    let (expected, alone) = run(&mut Llama::load(&micro(), &options("cpu", 0, 0)).unwrap(), &requests);
    for replicas in [2, 3, 40] {
        let mut llama = Llama::load(&micro(), &options("cpu", 0, replicas)).unwrap();
        let (answers, stats) = run(&mut llama, &requests);
        assert_eq!(answers, expected, "{replicas} replicas");
        assert_eq!(stats.decode_tokens, alone.decode_tokens);
        assert_eq!(stats.near_ties, alone.near_ties);
        // What one shares another may have to compute again, and nothing is lost.
        assert_eq!(stats.prefill_tokens + stats.shared_tokens, alone.prefill_tokens + alone.shared_tokens);
        assert!(stats.prefill_tokens > alone.prefill_tokens);
        assert_eq!(llama.identity().short(), "llama-cpu-f32", "the same numbers have the same signature");
        assert_eq!(llama.identity().data_parallel_size, Some(replicas as u32));
    }
}

#[test]
fn replicas_stop_when_nobody_wants_more() {
    let mut llama = Llama::load(&micro(), &options("cpu", 0, 3)).unwrap();
    let mut answers = 0;
    let mut done = |_: usize, _| {
        answers += 1;
        if answers == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    llama.run(&requests(5), &mut Listener { stops: &|_, _| false, done: &mut done, go_on: &|| true }).unwrap();
    assert_eq!(answers, 2);
    let mut none = |_: usize, _| panic!("nothing was asked for");
    let stats = llama.run(&requests(5), &mut Listener { stops: &|_, _| false, done: &mut none, go_on: &|| false }).unwrap();
    assert_eq!(stats, Stats::default());
}

/// One replica computes a logit that is no number: the run ends with that error, whatever the others do.
#[test]
fn a_replica_that_fails_ends_the_run() {
    let even = Even { shape: Shape { heads: 2, kv_heads: 2, head_dim: 32, tied: false, llama3: false }, bias: false };
    let dir = even.folder();
    // Only prompts with the token 447 meet the broken row.
    let broken = |(name, tensor): (String, Tensor)| {
        let tensor = match name.as_str() {
            "model.embed_tokens.weight" => {
                let (rows, width) = tensor.dims2().unwrap();
                let last = Tensor::full(f32::NAN, (1, width), &Device::Cpu).unwrap();
                Tensor::cat(&[tensor.narrow(0, 0, rows - 1).unwrap(), last], 0).unwrap()
            }
            _ => tensor,
        };
        (name, tensor)
    };
    candle_core::safetensors::save(&even.weights().into_iter().map(broken).collect(), dir.path().join("model.safetensors")).unwrap();
    let mut llama = Llama::load(dir.path(), &options("cpu", 0, 2)).unwrap();
    let generate =
        |prompt: Vec<u32>| TokenRequest::Generate { prompt, max_new: 200, end: Vec::new(), sampling: Sampling::GREEDY, sample: 0 };
    let mut done = |_: usize, _| ControlFlow::Continue(());
    let error = llama
        .run(&[generate(vec![1, 2, 3]), generate(vec![447, 1])], &mut Listener { stops: &|_, _| false, done: &mut done, go_on: &|| true })
        .unwrap_err();
    assert!(error.message.contains("a logit is not a number"), "{error}");
}

// The built program.

#[test]
fn bench_takes_the_flags_and_says_where_it_computed() {
    let desk = Desk::new();
    let on = |flags: &str| {
        let line = format!("bench --prompt 20 --batch 2 --new 3 --documents 3 --threads 1 --offline --model {} {flags}", micro().display());
        let said = desk.run(&line);
        assert_eq!(said.code, 0, "{flags}: {}", said.err);
        let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 5, "documents, matmul, copy, prefill, decode");
        assert!(lines.iter().all(|line| line["on"] == lines[0]["on"]));
        lines[0]["on"].as_str().unwrap().to_owned()
    };
    assert_eq!(on("--device cpu-tensors --tensor-parallel-size 2"), "cpu-tensors+cpu-tensors, tensors, f32, tensor parallel 2");
    assert_eq!(on("--device cpu,cpu"), "cpu, kernels, f32, data parallel 2: cpu cpu");
}

#[test]
fn devices_that_cannot_be_used_so_are_5_and_unreadable_numbers_2() {
    let desk = Desk::new();
    let micro = micro();
    for (flags, code, said) in [
        ("--device cpu-tensors --tensor-parallel-size 3", 5, "num_key_value_heads 2 and intermediate_size 64 cannot be divided by 3"),
        ("--device cpu --tensor-parallel-size 2", 5, "--tensor-parallel-size 2 wants GPUs, and the device is cpu"),
        ("--device cpu,cpu,cpu --data-parallel-size 2", 5, "--device names 3 devices"),
        ("--device cpu,tpu", 5, "unknown device \"tpu\""),
        ("--tensor-parallel-size 0", 2, "--tensor-parallel-size"),
        ("--data-parallel-size two", 2, "--data-parallel-size"),
    ] {
        for verb in ["bench --offline", "run --suite ja --tasks jemhopqa --limit 1 --offline"] {
            // What the data is does not matter here: the model is refused first, or the flag before it.
            let Some(data) = folder_of("SWALLOW_EVAL_DATA").or_else(|| verb.starts_with("bench").then(PathBuf::new)) else { continue };
            let line = format!("{verb} --model {} {flags}", micro.display());
            let output = desk.command().env("SWALLOW_EVAL_DATA", data).args(line.split(' ')).output().unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{line}: {err}");
            // Texts are wrapped to the terminal.
            assert!(err.split_whitespace().collect::<Vec<_>>().join(" ").contains(said), "{line}: {err}");
        }
    }
}

/// Records of a run: its spec, its signatures, and the lines of its journal, sorted.
fn records(flags: &str, data: &Path) -> (Value, String, Vec<String>) {
    let desk = Desk::new().env("SWALLOW_EVAL_DATA", data);
    let line = format!("run --suite ja --tasks jemhopqa --limit 5 --dtype f32 --model {} {flags}", micro().display());
    let said = desk.run(&line);
    assert_eq!(said.code, 0, "{flags}: {}", said.err);
    let run = std::fs::read_dir(desk.folder.path().join("results/runs")).unwrap().next().unwrap().unwrap().path();
    let read = |name: &str| std::fs::read_to_string(run.join(name)).unwrap();
    let mut journal: Vec<String> = read("responses.jsonl").lines().map(str::to_owned).collect();
    journal.sort();
    (serde_json::from_str(&read("run.json")).unwrap(), read("scores.json"), journal)
}

#[test]
fn runs_record_how_devices_shared_the_work() {
    let Some(data) = folder_of("SWALLOW_EVAL_DATA").map(|data| data.canonicalize().unwrap()) else { return };
    let (one, scores, journal) = records("--device cpu", &data);
    assert_eq!(one["engine"].get("data_parallel_size"), None);
    let (two, scores_of_two, journal_of_two) = records("--device cpu --data-parallel-size 2", &data);
    assert_eq!((two["engine"]["data_parallel_size"].as_u64(), two["engine"].get("tensor_parallel_size")), (Some(2), None));
    assert_eq!((journal_of_two, journal.len()), (journal, 5));
    for scores in [scores, scores_of_two] {
        assert!(scores.contains("|engine:llama-cpu-f32|"), "{scores}");
    }
    let (split, scores, _) = records("--device cpu-tensors --tensor_parallel_size 2", &data);
    assert_eq!(split["engine"]["tensor_parallel_size"], 2);
    assert!(scores.contains("|engine:llama-cpu-tensors-f32-tp2|"), "{scores}");
}
