//! GGUF, the one-file format of llama.cpp (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): its metadata told in the words of
//! Hugging Face's files, its tensors under their names and in their order of rows, so that nothing else here knows of the format.
//!
//! Files of the original checkpoint that lie beside it (`tokenizer.json`, `generation_config.json`, ...) win over the metadata: they say more,
//! such as all ids that end an answer.

mod tokenizer;

use super::{
    device::failed,
    weights::{ModelFiles, QuantisedRows, WeightFile},
};
use crate::engine::EngineError;
use candle_core::{
    DType, Device,
    quantized::{
        GgmlDType,
        gguf_file::{Content, Value},
    },
};
use serde_json::json;
use std::{collections::BTreeMap, io::Cursor, path::Path};

/// First bytes of every such file.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// An opened file.
pub(super) struct Gguf<'f> {
    name: &'f str,
    bytes: &'f [u8],
    content: Content,
}

/// The files of a Hugging Face directory, made of one such file and what lies beside it.
///
/// # Errors
/// A damaged file, an architecture that is not computed here, a tokenizer that cannot be rebuilt.
pub(super) fn model_files(path: &Path, weights: WeightFile) -> Result<ModelFiles, EngineError> {
    let beside = |name: &str| super::weights::optional(path.parent().unwrap_or(Path::new("")), name);
    let gguf = Gguf::parse(&weights.name, weights.bytes.as_slice())?;
    let config = gguf.config()?;
    let (tokenizer, tokenizer_config) = match beside("tokenizer.json")? {
        Some(tokenizer) => (tokenizer, beside("tokenizer_config.json")?),
        None => {
            let (tokenizer, config) = tokenizer::files(&gguf)?;
            (tokenizer.to_string().into_bytes(), Some(config.to_string().into_bytes()))
        }
    };
    Ok(ModelFiles {
        config: config.to_string().into_bytes(),
        generation_config: beside("generation_config.json")?,
        tokenizer,
        tokenizer_config,
        special_tokens_map: beside("special_tokens_map.json")?,
        chat_template: beside("chat_template.jinja")?,
        weights: vec![weights],
    })
}

impl<'f> Gguf<'f> {
    /// Reads metadata and the list of tensors.
    ///
    /// # Errors
    /// A damaged file.
    pub(super) fn parse(name: &'f str, bytes: &'f [u8]) -> Result<Self, EngineError> {
        let content = Content::read(&mut Cursor::new(bytes))
            .map_err(|e| damaged(failed(format!("{name} is not a whole GGUF file of {} bytes", bytes.len()))(e)))?;
        Ok(Gguf { name, bytes, content })
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.value(key)?.to_string().ok().map(String::as_str)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.value(key)?.to_bool().ok()
    }

    /// Writers choose the width of a number.
    fn integer(&self, key: &str) -> Option<u64> {
        integer(self.value(key)?)
    }

    fn float(&self, key: &str) -> Option<f64> {
        match self.value(key)? {
            Value::F32(value) => Some(f64::from(*value)),
            Value::F64(value) => Some(*value),
            _ => None,
        }
    }

    fn list(&self, key: &str) -> Option<&[Value]> {
        self.value(key)?.to_vec().ok().map(Vec::as_slice)
    }

    fn lacks(&self, key: &str) -> EngineError {
        EngineError::with_hint(
            format!("{}: the metadata has no {key}", self.name),
            "convert the checkpoint again with llama.cpp's converter",
        )
    }

    fn architecture(&self) -> Result<&'static str, EngineError> {
        match self.text("general.architecture") {
            Some("llama") => Ok("llama"),
            Some("qwen2") => Ok("qwen2"),
            other => Err(EngineError::with_hint(
                format!("{}: general.architecture is {}; llama and qwen2 are computed here", self.name, other.unwrap_or("missing")),
                "serve the file with llama.cpp's server and name it with --base-url",
            )),
        }
    }

    fn heads(&self) -> Result<(u64, u64), EngineError> {
        let key = format!("{}.attention.head_count", self.architecture()?);
        let heads = self.integer(&key).ok_or_else(|| self.lacks(&key))?;
        Ok((heads, self.integer(&format!("{key}_kv")).unwrap_or(heads)))
    }

    /// What `config.json` would say.
    fn config(&self) -> Result<serde_json::Value, EngineError> {
        let architecture = self.architecture()?;
        let key = |name: &str| format!("{architecture}.{name}");
        let integer = |name: &str| self.integer(&key(name)).ok_or_else(|| self.lacks(&key(name)));
        let float = |name: &str| self.float(&key(name)).ok_or_else(|| self.lacks(&key(name)));
        let (heads, kv_heads) = self.heads()?;
        let hidden = integer("embedding_length")?;
        let head_dim = self.integer(&key("attention.key_length")).unwrap_or(hidden / heads.max(1));
        if let Some(part) = self.integer(&key("rope.dimension_count")).filter(|part| *part != head_dim) {
            return Err(EngineError::new(format!(
                "{}: only {part} of the {head_dim} numbers of a head are rotated; all are here",
                self.name
            )));
        }
        if let Some(kind) = self.text(&key("rope.scaling.type")).filter(|kind| *kind != "none") {
            return Err(EngineError::new(format!("{}: {} is {kind}, which is not computed here", self.name, key("rope.scaling.type"))));
        }
        let embedding = self.shape("token_embd.weight").ok_or_else(|| self.lacks("tensor token_embd.weight"))?;
        let ends = ["eos", "eot", "eom"].iter().filter_map(|end| self.integer(&format!("tokenizer.ggml.{end}_token_id")));
        let mut ends: Vec<u64> = ends.collect();
        ends.dedup();
        Ok(json!({
            "architectures": [if architecture == "llama" { "LlamaForCausalLM" } else { "Qwen2ForCausalLM" }],
            "hidden_size": hidden,
            "intermediate_size": integer("feed_forward_length")?,
            "num_hidden_layers": integer("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": embedding.first(),
            "max_position_embeddings": integer("context_length")?,
            "rms_norm_eps": float("attention.layer_norm_rms_epsilon")?,
            "rope_theta": self.float(&key("rope.freq_base")).unwrap_or(10_000.0),
            "rope_scaling": self.divisors()?.map(|divisors| json!({"rope_type": "divisors", "divisors": divisors})),
            "tie_word_embeddings": self.shape("output.weight").is_none(),
            "attention_bias": architecture == "llama" && self.shape("blk.0.attn_q.bias").is_some(),
            "hidden_act": "silu",
            "torch_dtype": self.types(),
            "eos_token_id": ends,
        }))
    }

    /// Llama 3's scaling of long wavelengths is a tensor here: what each frequency is divided by.
    fn divisors(&self) -> Result<Option<Vec<f32>>, EngineError> {
        let name = "rope_freqs.weight";
        if self.shape(name).is_none() {
            return Ok(None);
        }
        self.dequantized(name).map(Some)
    }

    /// The types of the matrices, most frequent first, in transformers' words where it has some: `float16`, `q4_k+q6_k`.
    fn types(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.names() {
            let info = &self.content.tensor_infos[name];
            if info.shape.rank() == 2 {
                *counts.entry(type_name(info.ggml_dtype)).or_default() += 1;
            }
        }
        let mut types: Vec<(&str, usize)> = counts.into_iter().collect();
        types.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        types.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("+")
    }

    /// Names of the tensors, in alphabetical order.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.content.tensor_infos.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(self.content.tensor_infos.get(name)?.shape.dims())
    }

    /// The numbers of a tensor by the name and in the order of rows that a Hugging Face checkpoint has.
    ///
    /// # Errors
    /// It is missing, cut short, or has another shape.
    pub(super) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EngineError> {
        let values = self.dequantized(&self.find(name, shape)?)?;
        let rows = shape.first().copied().unwrap_or(0);
        let width = values.len() / rows.max(1);
        Ok(match self.pairs(name)? {
            None => values,
            Some(heads) => (0..rows).flat_map(|row| &values[paired(row, rows, heads) * width..][..width]).copied().collect(),
        })
    }

    /// The data type of a tensor's numbers; f32 where they are quantised.
    pub(super) fn dtype(&self, name: &str) -> DType {
        let info = own_name(name).and_then(|own| self.content.tensor_infos.get(&own));
        match info.map(|info| info.ggml_dtype) {
            Some(GgmlDType::F16) => DType::F16,
            Some(GgmlDType::BF16) => DType::BF16,
            _ => DType::F32,
        }
    }

    /// The same for a matrix whose numbers are quantised, row by row as they are; `None` where they are not quantised.
    ///
    /// # Errors
    /// It is missing, cut short, or has another shape.
    pub(super) fn quantised(&self, name: &str, shape: [usize; 2]) -> Result<Option<QuantisedRows<'f>>, EngineError> {
        let own = self.find(name, &shape)?;
        let info = &self.content.tensor_infos[&own];
        let (dtype, [out, inner]) = (info.ggml_dtype, shape);
        if matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) || !inner.is_multiple_of(dtype.block_size()) {
            return Ok(None);
        }
        let width = inner / dtype.block_size() * dtype.type_size();
        let bytes = usize::try_from(self.content.tensor_data_offset.saturating_add(info.offset)).ok().and_then(|at| self.bytes.get(at..));
        let Some(bytes) = bytes.and_then(|rest| rest.get(..out.checked_mul(width)?)) else {
            let why = format!("its {out} rows of {width} bytes are not all in the file's {} bytes", self.bytes.len());
            return Err(damaged(EngineError::new(format!("{}: tensor {own}: {why}", self.name))));
        };
        let heads = self.pairs(name)?;
        let row = |row| &bytes[heads.map_or(row, |heads| paired(row, out, heads)) * width..][..width];
        Ok(Some((dtype, (0..out).map(row).collect())))
    }

    /// The name here of a tensor of this shape.
    fn find(&self, name: &str, shape: &[usize]) -> Result<String, EngineError> {
        let missing = |own: &str| EngineError::new(format!("tensor {name} is missing in {} (there {own})", self.name));
        let own = own_name(name).ok_or_else(|| missing("unknown"))?;
        let found = self.shape(&own).ok_or_else(|| missing(&own))?;
        if found != shape {
            return Err(EngineError::new(format!("{}: tensor {name} has shape {found:?}, but the metadata asks for {shape:?}", self.name)));
        }
        Ok(own)
    }

    /// Heads of a tensor whose rows are in the order of pairs.
    fn pairs(&self, name: &str) -> Result<Option<u64>, EngineError> {
        let (heads, kv_heads) = self.heads()?;
        Ok(match name {
            _ if self.architecture()? != "llama" => None,
            _ if name.contains("q_proj") => Some(heads),
            _ if name.contains("k_proj") => Some(kv_heads),
            _ => None,
        })
    }

    fn dequantized(&self, name: &str) -> Result<Vec<f32>, EngineError> {
        let tensor = self.content.tensor(&mut Cursor::new(self.bytes), name, &Device::Cpu);
        let values = tensor.and_then(|tensor| tensor.dequantize(&Device::Cpu)).and_then(|tensor| tensor.flatten_all()?.to_vec1());
        values.map_err(|e| damaged(failed(format!("{}: tensor {name}", self.name))(e)))
    }
}

fn damaged(error: EngineError) -> EngineError {
    EngineError::with_hint(error.message, "download the file again")
}

fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::U8(v) => Some(u64::from(*v)),
        Value::U16(v) => Some(u64::from(*v)),
        Value::U32(v) => Some(u64::from(*v)),
        Value::U64(v) => Some(*v),
        Value::I8(v) => u64::try_from(*v).ok(),
        Value::I16(v) => u64::try_from(*v).ok(),
        Value::I32(v) => u64::try_from(*v).ok(),
        Value::I64(v) => u64::try_from(*v).ok(),
        _ => None,
    }
}

fn type_name(of: GgmlDType) -> &'static str {
    match of {
        GgmlDType::F32 => "float32",
        GgmlDType::F16 => "float16",
        GgmlDType::BF16 => "bfloat16",
        GgmlDType::Q4_0 => "q4_0",
        GgmlDType::Q4_1 => "q4_1",
        GgmlDType::Q5_0 => "q5_0",
        GgmlDType::Q5_1 => "q5_1",
        GgmlDType::Q8_0 => "q8_0",
        GgmlDType::Q8_1 => "q8_1",
        GgmlDType::Q2K => "q2_k",
        GgmlDType::Q3K => "q3_k",
        GgmlDType::Q4K => "q4_k",
        GgmlDType::Q5K => "q5_k",
        GgmlDType::Q6K => "q6_k",
        GgmlDType::Q8K => "q8_k",
    }
}

/// A tensor's name here (llama.cpp `gguf-py/gguf/constants.py`, `TENSOR_NAMES`), from that of a Hugging Face checkpoint.
fn own_name(name: &str) -> Option<String> {
    let outer = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(outer) = outer {
        return Some(outer.to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let own = match part {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{own}.{kind}"))
}

/// Where a row of all heads lies in the file. llama.cpp rotates neighbours of a head, transformers its halves; its converter puts the rows of
/// queries and keys in that order (`convert_hf_to_gguf.py`, `LlamaModel.permute`). Here they go back.
fn paired(row: usize, rows: usize, heads: u64) -> usize {
    let head = rows / (heads.max(1) as usize);
    let (at, within) = (row / head * head, row % head);
    at + if within < head / 2 { 2 * within } else { 2 * (within - head / 2) + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_llama_cpps() {
        for (name, own) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.12.self_attn.q_proj.bias", "blk.12.attn_q.bias"),
            ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ] {
            assert_eq!(own_name(name).as_deref(), Some(own));
        }
        assert_eq!(own_name("model.layers.0.mlp.experts.weight"), None);
    }

    #[test]
    fn rows_of_heads_go_back_to_halves() {
        // Two heads of four rows: (head, pair, half) becomes (head, half, pair).
        let from: Vec<usize> = (0..8).map(|row| paired(row, 8, 2)).collect();
        assert_eq!(from, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
