//! `config.json` and `generation_config.json` of Hugging Face models: as on disk, then as used.
//!
//! Whatever this runner does not compute is refused here with field, value and what is supported: a silently ignored field is a silently
//! wrong number.

use crate::engine::EngineError;
use serde::Deserialize;
use serde_json::Value;

/// Shape and constants of a model, all defaults resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions the model was trained for.
    pub max_position_embeddings: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the embedding is the output head too.
    pub tied: bool,
    /// Whether query, key and value have a bias (Qwen2), and the output projection too (`attention_bias` of Llama).
    pub bias: Bias,
    /// Data type of the weights as the config names it: `float32`, `bfloat16`, ...; those of a GGUF file's matrices: `q4_k+q6_k`.
    pub dtype: Option<String>,
    /// `eos_token_id` of generation_config.json, else of config.json.
    pub end_ids: Vec<u32>,
    /// `repetition_penalty` of generation_config.json. Nothing here applies it; a protocol may.
    pub repetition_penalty: Option<f64>,
    /// `top_k` of generation_config.json, as above.
    pub top_k: Option<u32>,
    /// `top_p` of generation_config.json, as above.
    pub top_p: Option<f64>,
}

/// Which projections of attention have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// None.
    None,
    /// Query, key and value (Qwen2).
    Qkv,
    /// Query, key, value and output (`attention_bias`).
    All,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the wavelengths.
    pub theta: f64,
    /// What is done to the wavelengths.
    pub scaling: Option<Scaling>,
}

/// A change of the wavelengths.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// `rope_scaling` of type `llama3`.
    Llama3(Llama3Scaling),
    /// What each frequency is divided by, one for each pair of a head: the same, worked out, in a GGUF file.
    Divisors(Vec<f32>),
}

/// Llama 3.1's scaling of long wavelengths.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Llama3Scaling {
    /// Long wavelengths are stretched by this.
    pub factor: f64,
    /// Wavelengths above `original / low` are long.
    pub low_freq_factor: f64,
    /// Wavelengths below `original / high` stay.
    pub high_freq_factor: f64,
    /// Positions of the first training.
    pub original_max_position_embeddings: f64,
}

/// `config.json` as on disk; fields that are not read are not listed.
#[derive(Deserialize)]
struct OnDisk {
    #[serde(default)]
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: String,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default)]
    layer_types: Vec<String>,
    quantization_config: Option<Value>,
    partial_rotary_factor: Option<f64>,
    #[serde(alias = "dtype")]
    torch_dtype: Option<String>,
    eos_token_id: Option<Value>,
}

/// Parses the two files.
///
/// # Errors
/// When a file is no JSON of the expected shape, or names something that is not computed here.
pub fn parse(config: &[u8], generation: Option<&[u8]>) -> Result<Config, EngineError> {
    let disk: OnDisk = serde_json::from_slice(config).map_err(|e| EngineError::new(format!("config.json is not valid: {e}")))?;
    let qwen2 = match disk.architectures.first().map(String::as_str) {
        Some("LlamaForCausalLM") => false,
        Some("Qwen2ForCausalLM") => true,
        other => return Err(unsupported("architectures", other.unwrap_or("nothing"), "LlamaForCausalLM and Qwen2ForCausalLM")),
    };
    check(&disk)?;
    let generation: Option<Value> = match generation {
        Some(bytes) => {
            Some(serde_json::from_slice(bytes).map_err(|e| EngineError::new(format!("generation_config.json is not valid: {e}")))?)
        }
        None => None,
    };
    let end = generation.as_ref().and_then(|g| g.get("eos_token_id")).filter(|v| !v.is_null()).or(disk.eos_token_id.as_ref());
    let bias = match (qwen2, disk.attention_bias) {
        (true, _) => Bias::Qkv,
        (false, Some(true)) => Bias::All,
        (false, _) => Bias::None,
    };
    let head_dim = disk.head_dim.unwrap_or(disk.hidden_size / disk.num_attention_heads);
    let rope = rope(disk.rope_theta, [&disk.rope_parameters, &disk.rope_scaling].into_iter().flatten().find(|v| !v.is_null()))?;
    if let Some(Scaling::Divisors(divisors)) = &rope.scaling
        && divisors.len() != head_dim / 2
    {
        return Err(unsupported("the number of rope_scaling.divisors", &divisors.len().to_string(), &(head_dim / 2).to_string()));
    }
    Ok(Config {
        rope,
        head_dim,
        kv_heads: disk.num_key_value_heads.unwrap_or(disk.num_attention_heads),
        hidden_size: disk.hidden_size,
        intermediate_size: disk.intermediate_size,
        layers: disk.num_hidden_layers,
        heads: disk.num_attention_heads,
        vocab_size: disk.vocab_size,
        max_position_embeddings: disk.max_position_embeddings,
        rms_norm_eps: disk.rms_norm_eps,
        tied: disk.tie_word_embeddings,
        bias,
        dtype: disk.torch_dtype,
        end_ids: end.map(ids).transpose()?.unwrap_or_default(),
        repetition_penalty: generation.as_ref().and_then(|g| g.get("repetition_penalty")).and_then(Value::as_f64),
        top_k: generation.as_ref().and_then(|g| g.get("top_k")).and_then(Value::as_u64).and_then(|k| u32::try_from(k).ok()),
        top_p: generation.as_ref().and_then(|g| g.get("top_p")).and_then(Value::as_f64),
    })
}

/// Refuses what is not computed here, and shapes that make no sense.
fn check(disk: &OnDisk) -> Result<(), EngineError> {
    if disk.hidden_act != "silu" {
        return Err(unsupported("hidden_act", &disk.hidden_act, "silu"));
    }
    if disk.use_sliding_window {
        return Err(unsupported("use_sliding_window", "true", "false"));
    }
    if let Some(other) = disk.layer_types.iter().find(|kind| *kind != "full_attention") {
        return Err(unsupported("layer_types", other, "full_attention"));
    }
    if disk.mlp_bias {
        return Err(unsupported("mlp_bias", "true", "false"));
    }
    if let Some(quantisation) = disk.quantization_config.as_ref().filter(|q| !q.is_null()) {
        let method = quantisation.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        return Err(unsupported("quantization_config.quant_method", method, "unquantised f32, f16 and bf16 weights"));
    }
    if let Some(part) = disk.partial_rotary_factor.filter(|p| *p != 1.0) {
        return Err(unsupported("partial_rotary_factor", &part.to_string(), "1.0"));
    }
    check_sizes(disk)
}

/// Refuses sizes that no model has; what is left multiplies without overflow.
fn check_sizes(disk: &OnDisk) -> Result<(), EngineError> {
    const LARGEST: usize = 1 << 24;
    let kv_heads = disk.num_key_value_heads.unwrap_or(disk.num_attention_heads);
    for (name, value) in [
        ("hidden_size", disk.hidden_size),
        ("intermediate_size", disk.intermediate_size),
        ("num_attention_heads", disk.num_attention_heads),
        ("num_key_value_heads", kv_heads),
        ("vocab_size", disk.vocab_size),
        ("head_dim", disk.head_dim.unwrap_or(2)),
    ] {
        if value == 0 || value > LARGEST {
            return Err(unsupported(name, &value.to_string(), &format!("1 to {LARGEST}")));
        }
    }
    if !disk.num_attention_heads.is_multiple_of(kv_heads) {
        let what = format!("divisors of num_attention_heads ({})", disk.num_attention_heads);
        return Err(unsupported("num_key_value_heads", &kv_heads.to_string(), &what));
    }
    let head_dim = disk.head_dim.unwrap_or(disk.hidden_size / disk.num_attention_heads);
    if !head_dim.is_multiple_of(2) || head_dim == 0 {
        return Err(unsupported("head_dim", &head_dim.to_string(), "even numbers from 2"));
    }
    Ok(())
}

/// transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters` with both.
///
/// # Errors
/// A type of scaling that is not computed here, or one that lacks a parameter.
pub fn rope(theta: Option<f64>, parameters: Option<&Value>) -> Result<Rope, EngineError> {
    let inner = parameters.and_then(|p| p.get("rope_theta")).and_then(Value::as_f64);
    let theta = inner.or(theta).unwrap_or(10_000.0);
    let kind = parameters.and_then(|p| p.get("rope_type").or_else(|| p.get("type"))).and_then(Value::as_str);
    let scaling = match (kind, parameters) {
        (None | Some("default"), _) => None,
        (Some("llama3"), Some(parameters)) => Some(Scaling::Llama3(
            serde_json::from_value(parameters.clone())
                .map_err(|e| EngineError::new(format!("config.json: rope_scaling of type llama3 is not complete: {e}")))?,
        )),
        (Some("divisors"), Some(parameters)) => Some(Scaling::Divisors(
            serde_json::from_value(parameters["divisors"].clone())
                .map_err(|e| EngineError::new(format!("config.json: rope_scaling.divisors is no list of numbers: {e}")))?,
        )),
        (Some(other), _) => return Err(unsupported("rope_scaling.rope_type", other, "default and llama3")),
    };
    Ok(Rope { theta, scaling })
}

/// One id or a list of them.
fn ids(value: &Value) -> Result<Vec<u32>, EngineError> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match value {
        Value::Null => Some(Vec::new()),
        Value::Array(items) => items.iter().map(one).collect(),
        single => one(single).map(|id| vec![id]),
    };
    ids.ok_or_else(|| EngineError::new(format!("eos_token_id must be a token id or a list of them, not {value}")))
}

fn unsupported(field: &str, value: &str, supported: &str) -> EngineError {
    EngineError::with_hint(
        format!("config.json: {field} is {value}, which the in-process engine does not compute; it computes {supported}"),
        "serve the model with vLLM or another server and name it with --base-url",
    )
}

impl Config {
    /// The types of quantised weights, `q4_k+q6_k`: a result of theirs is not one of the checkpoint they were made of.
    pub fn quantisation(&self) -> Option<&str> {
        self.dtype.as_deref().filter(|dtype| dtype.split('+').any(|one| one.starts_with('q')))
    }
}

impl Rope {
    /// Angle per position of each pair of a head, `head_dim / 2` values, as transformers computes them in f32
    /// (`modeling_rope_utils.py`, `_compute_default_rope_parameters`, `_compute_llama3_parameters`).
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = (0..head_dim).step_by(2).map(|i| 1.0 / (self.theta as f32).powf(i as f32 / head_dim as f32));
        let scaling = match &self.scaling {
            None => return plain.collect(),
            Some(Scaling::Divisors(divisors)) => return plain.zip(divisors).map(|(frequency, divisor)| frequency / divisor).collect(),
            Some(Scaling::Llama3(scaling)) => scaling,
        };
        let (factor, low, high) = (scaling.factor as f32, scaling.low_freq_factor as f32, scaling.high_freq_factor as f32);
        let original = scaling.original_max_position_embeddings as f32;
        plain
            .map(|frequency| {
                let wavelength = 2.0 * std::f32::consts::PI / frequency;
                if wavelength > original / low {
                    frequency / factor
                } else if wavelength < original / high {
                    frequency
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn llama() -> Value {
        json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
               "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 912, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
               "hidden_act": "silu", "rope_theta": 500000.0, "eos_token_id": [901, 908]})
    }

    fn parsed(config: &Value) -> Result<Config, String> {
        parse(config.to_string().as_bytes(), None).map_err(|e| e.message)
    }

    #[test]
    fn defaults_are_resolved() {
        let config = parsed(&llama()).expect("valid");
        assert_eq!((config.head_dim, config.bias, config.tied), (16, Bias::None, false));
        assert_eq!(config.end_ids, [901, 908]);
        let generation = br#"{"eos_token_id": 3}"#;
        assert_eq!(parse(llama().to_string().as_bytes(), Some(generation)).expect("valid").end_ids, [3]);
    }

    #[test]
    fn both_spellings_of_rope() {
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                            "original_max_position_embeddings": 64});
        let mut old = llama();
        old["rope_scaling"] = llama3.clone();
        let mut new = llama();
        new.as_object_mut().expect("an object").remove("rope_theta");
        new["rope_parameters"] = llama3;
        new["rope_parameters"]["rope_theta"] = json!(500000.0);
        assert_eq!(parsed(&old).expect("valid").rope, parsed(&new).expect("valid").rope);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (field, value, expected) in [
            ("architectures", json!(["MistralForCausalLM"]), "MistralForCausalLM"),
            ("architectures", json!([]), "architectures is nothing"),
            ("hidden_act", json!("gelu"), "hidden_act is gelu"),
            ("use_sliding_window", json!(true), "use_sliding_window"),
            ("mlp_bias", json!(true), "mlp_bias"),
            ("quantization_config", json!({"quant_method": "gptq"}), "gptq"),
            ("rope_scaling", json!({"type": "yarn", "factor": 4.0}), "yarn"),
            ("rope_scaling", json!({"rope_type": "llama3"}), "not complete"),
            ("num_key_value_heads", json!(3), "divisors of num_attention_heads (4)"),
            ("num_attention_heads", json!(0), "num_attention_heads is 0"),
            ("hidden_size", json!("wide"), "config.json is not valid"),
            ("eos_token_id", json!("x"), "eos_token_id must be"),
        ] {
            let mut config = llama();
            config[field] = value;
            let error = parsed(&config).expect_err(field);
            assert!(error.contains(expected), "{field}: {error}");
        }
    }
}
