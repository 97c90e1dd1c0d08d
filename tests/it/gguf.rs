//! Models in llama.cpp's file format: the same as the checkpoints they were made of, or refused.

use crate::support::{desk::Desk, generate, random_model::Shape, request, serve_all};
use candle_core::quantized::{GgmlDType, QTensor, gguf_file, gguf_file::Value as Meta};
use candle_core::{Device, Tensor};
use serde_json::Value;
use std::{fs, path::Path};
use swallow_eval::engine::llama::{Llama, LoadOptions};
use swallow_eval::engine::{Engine, LogLikelihood, Outcome, Output, Request, RequestKind, Sampling, TokenRules};
use swallow_eval::text::tokenizer::Special;

fn micro() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/micro-llama")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// llama.cpp's order of the rows of queries and keys: pairs instead of halves.
fn pairs(tensor: &Tensor, heads: usize) -> Tensor {
    let (rows, width) = tensor.dims2().unwrap();
    tensor
        .reshape((heads, 2, rows / heads / 2, width))
        .unwrap()
        .transpose(1, 2)
        .unwrap()
        .contiguous()
        .unwrap()
        .reshape((rows, width))
        .unwrap()
}

fn own_name(name: &str) -> String {
    let known = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    known.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// What llama.cpp's converter says of a model and of the micro model's tokenizer.
pub(crate) fn metadata(config: &Value) -> Vec<(String, Meta)> {
    let number = |key: &str| Meta::U32(config[key].as_u64().unwrap() as u32);
    let tokenizer = json(&micro().join("tokenizer.json"));
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocab.len() + added.len()];
    let mut types = vec![1; tokens.len()];
    for (token, id) in vocab {
        tokens[id.as_u64().unwrap() as usize].clone_from(token);
    }
    for token in added {
        let id = token["id"].as_u64().unwrap() as usize;
        tokens[id] = token["content"].as_str().unwrap().to_owned();
        types[id] = if token["special"] == true { 3 } else { 4 };
    }
    let id_of = |text: &str| tokens.iter().position(|token| token == text).unwrap() as u32;
    let merge = |merge: &Value| match merge {
        Value::String(text) => text.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    };
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(merge);
    let head_dim = match &config["head_dim"] {
        Value::Null => config["hidden_size"].as_u64().unwrap() / config["num_attention_heads"].as_u64().unwrap(),
        given => given.as_u64().unwrap(),
    };
    let text = |text: &str| Meta::String(text.to_owned());
    [
        ("general.architecture", text("llama")),
        ("llama.embedding_length", number("hidden_size")),
        ("llama.feed_forward_length", number("intermediate_size")),
        ("llama.block_count", number("num_hidden_layers")),
        ("llama.attention.head_count", number("num_attention_heads")),
        ("llama.attention.head_count_kv", number("num_key_value_heads")),
        ("llama.attention.key_length", Meta::U32(head_dim as u32)),
        ("llama.context_length", number("max_position_embeddings")),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.rope.freq_base", Meta::F32(config["rope_theta"].as_f64().unwrap() as f32)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("llama-bpe")),
        ("tokenizer.ggml.bos_token_id", Meta::U32(id_of("<|begin_of_text|>"))),
        ("tokenizer.ggml.eos_token_id", Meta::U32(id_of(json(&micro().join("tokenizer_config.json"))["eos_token"].as_str().unwrap()))),
        ("tokenizer.ggml.add_bos_token", Meta::Bool(true)),
        ("tokenizer.ggml.merges", Meta::Array(merges.map(Meta::String).collect())),
        ("tokenizer.ggml.token_type", Meta::Array(types.into_iter().map(Meta::I32).collect())),
        ("tokenizer.ggml.tokens", Meta::Array(tokens.into_iter().map(Meta::String).collect())),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Writes a file; matrices whose rows are long enough are of the type.
pub(crate) fn write(path: &Path, metadata: &[(String, Meta)], config: &Value, weights: &[(String, Tensor)], dtype: GgmlDType) {
    let heads = |key: &str| config[key].as_u64().unwrap() as usize;
    let tensors: Vec<(String, QTensor)> = weights
        .iter()
        .map(|(name, tensor)| {
            let tensor = match name {
                _ if name.contains("q_proj") => pairs(tensor, heads("num_attention_heads")),
                _ if name.contains("k_proj") => pairs(tensor, heads("num_key_value_heads")),
                _ => tensor.clone(),
            };
            (own_name(name), QTensor::quantize(&tensor, type_of(name, &tensor, dtype)).unwrap())
        })
        .collect();
    let metadata: Vec<(&str, &Meta)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// Q4_K becomes llama.cpp's Q4_K_M: some matrices keep six bits, so that what is stacked for one product is of two types.
fn type_of(name: &str, tensor: &Tensor, dtype: GgmlDType) -> GgmlDType {
    let long = tensor.rank() == 2 && tensor.dims()[1].is_multiple_of(dtype.block_size());
    match dtype {
        _ if !long => GgmlDType::F32,
        GgmlDType::Q4K if name.contains("v_proj") || name.contains("down_proj") => GgmlDType::Q6K,
        dtype => dtype,
    }
}

fn load(path: &Path) -> Llama {
    Llama::load(path, &LoadOptions { model: "m".into(), ..LoadOptions::default() }).unwrap()
}

fn requests() -> Vec<Request> {
    let scored = |context: &str, continuations: &[&str]| {
        let continuations = continuations.iter().map(|text| (*text).to_owned()).collect();
        Request::new(RequestKind::LogLikelihood(LogLikelihood { context: context.to_owned(), continuations, rules: TokenRules::default() }))
    };
    vec![
        request(generate("質問：日本の首都はどこですか。\n回答：", 24)),
        request(swallow_eval::engine::Generate {
            sampling: Sampling { temperature: 0.9, seed: 7, ..Sampling::GREEDY },
            ..generate("The", 24)
        }),
        scored("The capital of France is", &[" Paris", " a long way from here, isn't it?"]),
        scored("1 + 1 =", &[" 2", " 11"]),
    ]
}

/// Texts and log-likelihoods.
fn told(outcomes: &[Outcome]) -> (Vec<String>, Vec<f64>) {
    let (mut texts, mut numbers) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match &outcome.as_ref().unwrap().output {
            Output::Generated(generated) => texts.push(generated.text.clone()),
            Output::LogLikelihoods { continuations } => numbers.extend(continuations.iter().map(|one| one.logprob)),
            other => panic!("{other:?}"),
        }
    }
    (texts, numbers)
}

/// The micro model, scaled wavelengths and all: tokens are equal, numbers differ by what working out the scale in another order rounds.
#[test]
fn a_file_of_f32_is_the_checkpoint_it_was_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("micro.GGUF");
    let config = json(&micro().join("config.json"));
    let mut weights: Vec<(String, Tensor)> =
        candle_core::safetensors::load(micro().join("model.safetensors"), &Device::Cpu).unwrap().into_iter().collect();
    // Wavelengths above 32 / 1 positions are stretched 8 times, those below 32 / 4 stay, as llama.cpp's converter works it out.
    let divisor = |i: i32| {
        let wavelength = 2.0 * std::f64::consts::PI * 10_000f64.powf(f64::from(i) / 8.0);
        match wavelength {
            short if short < 8.0 => 1.0,
            long if long > 32.0 => 8.0,
            between => {
                let smooth = (32.0 / between - 1.0) / 3.0;
                1.0 / ((1.0 - smooth) / 8.0 + smooth)
            }
        }
    };
    let divisors: Vec<f32> = (0..8).map(|i| divisor(i) as f32).collect();
    weights.push(("rope_freqs.weight".to_owned(), Tensor::new(divisors, &Device::Cpu).unwrap()));
    write(&path, &metadata(&config), &config, &weights, GgmlDType::F32);
    fs::copy(micro().join("generation_config.json"), folder.path().join("generation_config.json")).unwrap();
    let (mut file, mut checkpoint) = (load(&path), load(&micro()));
    for text in ["", "a", "Hello, world! It's 12345.", "東京都　港区\n\n 1２3", "<|end_of_text|>x<|begin_of_text|>", "  two\tspaces \r\n"]
    {
        for special in [Special::Add, Special::None] {
            assert_eq!(file.tokenizer().encode(text, special).unwrap(), checkpoint.tokenizer().encode(text, special).unwrap(), "{text:?}");
        }
    }
    assert_eq!(file.config().end_ids, checkpoint.config().end_ids, "generation_config.json beside the file is read");
    let (here, there) = (told(&serve_all(&mut file, &requests())), told(&serve_all(&mut checkpoint, &requests())));
    assert_eq!(here.0, there.0);
    assert!(here.1.len() == 4 && here.1.iter().zip(&there.1).all(|(a, b)| (a - b).abs() < 1e-4), "{here:?} {there:?}");
}

/// Rounded weights are a checkpoint of the rounded numbers, to the last bit, and say what they are.
#[test]
fn quantised_weights_are_the_numbers_they_stand_for() {
    let shape = Shape { heads: 4, kv_heads: 2, head_dim: 64, tied: true, llama3: false };
    let (config, weights) = (shape.config(), shape.weights());
    let folder = tempfile::tempdir().unwrap();
    for (dtype, name) in
        [(GgmlDType::F16, "f32"), (GgmlDType::Q8_0, "f32(q8_0+float32-weights)"), (GgmlDType::Q4K, "f32(q4_k+float32+q6_k-weights)")]
    {
        let path = folder.path().join("model.gguf");
        write(&path, &metadata(&config), &config, &weights, dtype);
        let rounded = |(name, tensor): &(String, Tensor)| {
            let stored = QTensor::quantize(tensor, type_of(name, tensor, dtype)).unwrap().dequantize(&Device::Cpu).unwrap();
            (name.clone(), stored)
        };
        let mut checkpoint = shape.load(&weights.iter().map(rounded).collect::<Vec<_>>(), &LoadOptions::default());
        let there = told(&serve_all(&mut checkpoint, &requests()));
        let widened = LoadOptions { model: "m".into(), dtype: Some("f32".into()), ..LoadOptions::default() };
        let mut here = there.clone();
        for mut file in [load(&path), Llama::load(&path, &widened).unwrap()] {
            assert_eq!(file.identity().dtype.as_deref(), Some(name));
            here = told(&serve_all(&mut file, &requests()));
            assert_eq!(here, there, "{name}");
        }
        assert!(here.0.len() == 2 && here.1.len() == 4 && here.1.iter().all(|number| number.is_finite()), "{here:?}");
    }
}

#[test]
fn what_cannot_be_read_or_computed_is_said() {
    let shape = Shape { heads: 2, kv_heads: 1, head_dim: 16, tied: true, llama3: false };
    let (config, weights) = (shape.config(), shape.weights());
    let desk = Desk::new().env("RUST_BACKTRACE", "1");
    let path = desk.folder.path().join("model.gguf");
    let line = "bench --model model.gguf --prompt 8 --batch 1 --documents 1 --new 2";
    let fails = |parts: &[&str]| {
        let said = desk.run(line);
        said.fails(5, parts);
        assert!(!said.err.contains("candle_core::"), "{}", said.err);
    };
    let with = |key: &str, value: Option<Meta>| {
        let mut metadata = metadata(&config);
        metadata.retain(|(name, _)| name != key);
        metadata.extend(value.map(|value| (key.to_owned(), value)));
        write(&path, &metadata, &config, &weights, GgmlDType::F32);
    };
    let text = |text: &str| Some(Meta::String(text.to_owned()));
    with("general.architecture", text("gemma"));
    fails(&["general.architecture is gemma", "llama and qwen2", "hint: "]);
    with("tokenizer.ggml.pre", text("tekken"));
    fails(&["its tokenizer (gpt2, tekken)", "tokenizer.json"]);
    with("llama.block_count", None);
    fails(&["the metadata has no llama.block_count"]);
    with("llama.block_count", Some(Meta::U32(4)));
    fails(&["model.layers.3.", "is missing"]);
    with("llama.rope.scaling.type", text("yarn"));
    fails(&["llama.rope.scaling.type is yarn"]);
    with("none", None);
    let whole = fs::read(&path).unwrap();
    for part in [3, 40, whole.len() / 10, whole.len() - 40] {
        fs::write(&path, &whole[..part]).unwrap();
        fails(&["model.gguf", "download the file again"]);
    }
    fs::write(&path, b"no such thing").unwrap();
    fails(&["model.gguf is not a whole GGUF file"]);
    fs::remove_file(&path).unwrap();
    fails(&["model file model.gguf does not exist"]);
}
