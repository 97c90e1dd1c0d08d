//! Model files: from a directory (memory-mapped) or from bytes in the program; tensors by name, as f32.
//!
//! A missing, misshapen or truncated tensor is an error that names file and tensor.

use crate::engine::EngineError;
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
};

/// The files of a model in Hugging Face layout.
#[derive(Debug)]
pub struct ModelFiles {
    /// `config.json`.
    pub config: Vec<u8>,
    /// `generation_config.json`.
    pub generation_config: Option<Vec<u8>>,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<Vec<u8>>,
    /// Weight files.
    pub weights: Vec<WeightFile>,
}

/// One `.safetensors` file.
#[derive(Debug)]
pub struct WeightFile {
    /// For messages.
    pub name: String,
    /// Its content.
    pub bytes: Bytes,
}

/// Where a file's content is.
#[derive(Debug)]
pub enum Bytes {
    /// In a file on disk.
    Mapped(Mmap),
    /// In the program.
    Static(&'static [u8]),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

impl ModelFiles {
    /// Reads the small files of a model directory and maps its weights: `model.safetensors`, else the shards that
    /// `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// When a file that must be there is missing or unreadable.
    pub fn open(dir: &Path) -> Result<Self, EngineError> {
        if !dir.is_dir() {
            return Err(EngineError::new(format!("model directory {} does not exist", dir.display())));
        }
        Ok(ModelFiles {
            config: required(dir, "config.json")?,
            generation_config: optional(dir, "generation_config.json")?,
            tokenizer: required(dir, "tokenizer.json")?,
            tokenizer_config: optional(dir, "tokenizer_config.json")?,
            special_tokens_map: optional(dir, "special_tokens_map.json")?,
            weights: weight_files(dir)?,
        })
    }

    /// The files of a model that is part of the program, by name.
    ///
    /// # Errors
    /// When one that must be there is missing.
    pub fn built_in(files: &[(&str, &'static [u8])]) -> Result<Self, EngineError> {
        let find = |name: &str| files.iter().find(|(n, _)| *n == name).map(|(_, bytes)| bytes.to_vec());
        let need = |name: &str| find(name).ok_or_else(|| EngineError::new(format!("the built-in model has no {name}")));
        let weights = files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
        Ok(ModelFiles {
            config: need("config.json")?,
            generation_config: find("generation_config.json"),
            tokenizer: need("tokenizer.json")?,
            tokenizer_config: find("tokenizer_config.json"),
            special_tokens_map: find("special_tokens_map.json"),
            weights: weights.map(|(name, bytes)| WeightFile { name: (*name).into(), bytes: Bytes::Static(bytes) }).collect(),
        })
    }

    /// Identifies the weights without reading them all: SHA-256 over each file's name, size and header (names, types, shapes, offsets),
    /// and over the content of files of at most 64 MiB.
    pub fn weights_sha256(&self) -> String {
        const WHOLE: usize = 64 << 20;
        let mut hash = Sha256::new();
        for file in &self.weights {
            let bytes = file.bytes.as_slice();
            let header = bytes.get(..8).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
            let end = if bytes.len() <= WHOLE { bytes.len() } else { (header as usize).saturating_add(8).min(bytes.len()) };
            let name = Path::new(&file.name).file_name().unwrap_or_default().to_string_lossy().into_owned();
            hash.update(format!("{name}\0{}\0", bytes.len()));
            hash.update(&bytes[..end]);
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

fn required(dir: &Path, name: &str) -> Result<Vec<u8>, EngineError> {
    optional(dir, name)?.ok_or_else(|| {
        let hint =
            "a model directory in Hugging Face layout has config.json, tokenizer.json and model.safetensors (or shards with an index)";
        EngineError::with_hint(format!("{} is missing", dir.join(name).display()), hint)
    })
}

fn optional(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(EngineError::new(format!("failed to read {}: {e}", path.display()))),
    }
}

fn weight_files(dir: &Path) -> Result<Vec<WeightFile>, EngineError> {
    let single = dir.join("model.safetensors");
    if single.exists() {
        return Ok(vec![map(single)?]);
    }
    let name = "model.safetensors.index.json";
    let index = required(dir, name)?;
    let invalid = |why: String| EngineError::new(format!("{} is not valid: {why}", dir.join(name).display()));
    let index: Value = serde_json::from_slice(&index).map_err(|e| invalid(e.to_string()))?;
    let of_tensors = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| invalid("it has no weight_map".into()))?;
    let names: BTreeSet<&str> = of_tensors.values().filter_map(Value::as_str).collect();
    if let Some(bad) = names.iter().find(|n| Path::new(n).components().count() != 1) {
        return Err(invalid(format!("shard {bad:?} is not a plain file name")));
    }
    names.into_iter().map(|shard| map(dir.join(shard))).collect()
}

fn map(path: PathBuf) -> Result<WeightFile, EngineError> {
    let failed = |e: std::io::Error| EngineError::new(format!("failed to open {}: {e}", path.display()));
    let file = File::open(&path).map_err(failed)?;
    #[expect(unsafe_code, reason = "weights are too large to copy; a file that another process cuts while it is mapped would end this one")]
    let bytes = unsafe { Mmap::map(&file) }.map_err(failed)?;
    Ok(WeightFile { name: path.display().to_string(), bytes: Bytes::Mapped(bytes) })
}

/// Tensors of all weight files by name.
pub struct Weights<'f> {
    files: Vec<(&'f str, SafeTensors<'f>)>,
    device: Device,
    rounding: Rounding,
}

/// What happens to weights on their way to f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// The values of the file.
    None,
    /// Rounded to bf16 first (`--dtype bf16` on the CPU).
    Bf16,
    /// Rounded to f16 first.
    F16,
}

impl<'f> Weights<'f> {
    /// Reads the headers.
    ///
    /// # Errors
    /// A file that is cut short or no safetensors file.
    pub fn open(files: &'f ModelFiles, device: &Device, rounding: Rounding) -> Result<Self, EngineError> {
        let open = |file: &'f WeightFile| match SafeTensors::deserialize(file.bytes.as_slice()) {
            Ok(tensors) => Ok((file.name.as_str(), tensors)),
            Err(e) => Err(EngineError::with_hint(
                format!("{} is not a whole safetensors file: {e} ({} bytes)", file.name, file.bytes.as_slice().len()),
                "download the file again",
            )),
        };
        Ok(Weights { files: files.weights.iter().map(open).collect::<Result<_, _>>()?, device: device.clone(), rounding })
    }

    /// A tensor of exactly this shape, as f32.
    ///
    /// # Errors
    /// It is missing, has another shape, or a type other than F32, F16 and BF16.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
        let found = self.files.iter().find_map(|(file, tensors)| Some((*file, tensors.tensor(name).ok()?)));
        let Some((file, view)) = found else {
            let names: Vec<&str> = self.files.iter().map(|(file, _)| *file).collect();
            return Err(EngineError::new(format!("tensor {name} is missing in {}", names.join(", "))));
        };
        if view.shape() != shape {
            return Err(EngineError::new(format!(
                "{file}: tensor {name} has shape {:?}, but config.json asks for {shape:?}",
                view.shape()
            )));
        }
        let values = self.values(view.dtype(), view.data()).ok_or_else(|| {
            EngineError::new(format!("{file}: tensor {name} is of type {:?}; F32, F16 and BF16 are supported", view.dtype()))
        })?;
        Tensor::from_vec(values, shape, &self.device).map_err(|e| EngineError::new(format!("{file}: tensor {name}: {e}")))
    }

    fn values(&self, dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
        let two = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        let mut values: Vec<f32> = match dtype {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => data.chunks_exact(2).map(|b| f16::from_bits(two(b)).to_f32()).collect(),
            Dtype::BF16 => data.chunks_exact(2).map(|b| bf16::from_bits(two(b)).to_f32()).collect(),
            _ => return None,
        };
        match self.rounding {
            Rounding::None => {}
            Rounding::Bf16 => values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
            Rounding::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
        }
        Some(values)
    }
}
