//! Model files: from a directory (memory-mapped) or from bytes in the program; tensors by name, as they are or in one data type.
//!
//! A missing, misshapen or truncated tensor is an error that names file and tensor.

use super::{
    device::failed,
    dist::share::{Cut, Share},
    gguf::{self, Gguf},
};
use crate::engine::EngineError;
use candle_core::{DType, Device, Tensor, quantized::GgmlDType};
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
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
    /// `chat_template.jinja`, where newer versions of transformers keep what tokenizer_config.json held before.
    pub chat_template: Option<Vec<u8>>,
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
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

impl ModelFiles {
    /// Reads the small files of a model directory and maps its weights: `model.safetensors`, else the shards that
    /// `model.safetensors.index.json` names. Where the path is that of a GGUF file: what it and the files beside it say.
    ///
    /// # Errors
    /// When a file that must be there is missing or unreadable.
    pub fn open(dir: &Path) -> Result<Self, EngineError> {
        if is_gguf(dir) {
            return gguf::model_files(dir, map(dir.to_owned())?);
        }
        if !dir.is_dir() {
            return Err(EngineError::new(format!("model directory {} does not exist", dir.display())));
        }
        Ok(ModelFiles {
            config: required(dir, "config.json")?,
            generation_config: optional(dir, "generation_config.json")?,
            tokenizer: required(dir, "tokenizer.json")?,
            tokenizer_config: optional(dir, "tokenizer_config.json")?,
            special_tokens_map: optional(dir, "special_tokens_map.json")?,
            chat_template: optional(dir, "chat_template.jinja")?,
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
            chat_template: find("chat_template.jinja"),
            weights: weights.map(|(name, bytes)| WeightFile { name: (*name).into(), bytes: Bytes::Static(bytes) }).collect(),
        })
    }

    /// Identifies the weights without reading 140 GB: SHA-256 over each file's name and size, then over its content up to 64 MiB; of a
    /// larger file over the header (names, types, shapes, offsets) and 4 KiB every MiB, so that two trainings of one shape differ.
    pub fn weights_sha256(&self) -> String {
        const WHOLE: usize = 64 << 20;
        const EVERY: usize = 1 << 20;
        const SAMPLE: usize = 4 << 10;
        // Metadata with a vocabulary and its merges.
        const GGUF_HEADER: u64 = 16 << 20;
        let mut hash = Sha256::new();
        for file in &self.weights {
            let bytes = file.bytes.as_slice();
            let name = Path::new(&file.name).file_name().unwrap_or_default().to_string_lossy().into_owned();
            hash.update(format!("{name}\0{}\0", bytes.len()));
            if bytes.len() <= WHOLE {
                hash.update(bytes);
                continue;
            }
            let header = match bytes.starts_with(gguf::MAGIC) {
                true => GGUF_HEADER,
                false => bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b)),
            };
            let tensors = usize::try_from(header).unwrap_or(usize::MAX).saturating_add(8).min(bytes.len());
            hash.update(&bytes[..tensors]);
            bytes[tensors..].chunks(EVERY).for_each(|part| hash.update(&part[..SAMPLE.min(part.len())]));
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Whether a path names a file of llama.cpp's format.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) && path.is_file()
}

fn required(dir: &Path, name: &str) -> Result<Vec<u8>, EngineError> {
    optional(dir, name)?.ok_or_else(|| {
        let hint =
            "a model directory in Hugging Face layout has config.json, tokenizer.json and model.safetensors (or shards with an index)";
        EngineError::with_hint(format!("{} is missing", dir.join(name).display()), hint)
    })
}

pub(super) fn optional(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
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

/// Tensors by name.
pub struct Weights<'f> {
    source: Source<'f>,
    device: Device,
    /// The data type of all tensors; where `None`, each as its file has it, and what is quantised in f32 unless [`Weights::quantised`] takes it.
    dtype: Option<DType>,
    /// Which part of the model is taken.
    share: Share,
}

/// The type of a quantised matrix, and its rows: blocks as they lie in the file.
pub type QuantisedRows<'f> = (GgmlDType, Vec<&'f [u8]>);

enum Source<'f> {
    /// All weight files.
    Files(Vec<(&'f str, SafeTensors<'f>)>),
    /// One file of llama.cpp's format.
    Gguf(Gguf<'f>),
    /// Nothing: numbers are made up.
    Random,
}

/// What happens to weights on their way to f32, and to logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// The values of the file.
    None,
    /// Rounded to bf16 first (`--dtype bf16` on the CPU).
    Bf16,
    /// Rounded to f16 first.
    F16,
}

impl Rounding {
    /// Rounds.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Rounding::None => {}
            Rounding::Bf16 => values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
            Rounding::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
        }
    }

    /// Two logits closer than this, around such a value, may come in another order from another batch or device: 1e-3 in f32, a step of
    /// the data type where they are rounded to one.
    pub fn noise(self, logit: f32) -> f32 {
        const F32: f32 = 1e-3;
        match self {
            Rounding::None => F32,
            Rounding::Bf16 => F32.max(logit.abs() / 128.0),
            Rounding::F16 => F32.max(logit.abs() / 1024.0),
        }
    }
}

impl<'f> Weights<'f> {
    /// Reads the headers.
    ///
    /// # Errors
    /// A file that is cut short or no safetensors file.
    pub fn open(files: &'f ModelFiles, device: &Device, dtype: Option<DType>) -> Result<Self, EngineError> {
        if let [file] = files.weights.as_slice()
            && file.bytes.as_slice().starts_with(gguf::MAGIC)
        {
            let source = Source::Gguf(Gguf::parse(&file.name, file.bytes.as_slice())?);
            return Ok(Weights { source, device: device.clone(), dtype, share: Share::WHOLE });
        }
        let open = |file: &'f WeightFile| match SafeTensors::deserialize(file.bytes.as_slice()) {
            Ok(tensors) => Ok((file.name.as_str(), tensors)),
            Err(e) => Err(EngineError::with_hint(
                format!("{} is not a whole safetensors file: {e} ({} bytes)", file.name, file.bytes.as_slice().len()),
                "download the file again",
            )),
        };
        let files = files.weights.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Weights { source: Source::Files(files), device: device.clone(), dtype, share: Share::WHOLE })
    }

    /// Weights of any model, made up: the same at every call. Matrices have the spread of an untrained model, norms are 1, biases 0.
    pub fn random(device: &Device, dtype: Option<DType>) -> Weights<'static> {
        Weights { source: Source::Random, device: device.clone(), dtype, share: Share::WHOLE }
    }

    /// The same for one of several devices that hold the model together.
    #[must_use]
    pub fn of_share(self, share: Share) -> Self {
        Weights { share, ..self }
    }

    /// Whose part is taken.
    pub fn share(&self) -> Share {
        self.share
    }

    /// A tensor of exactly this shape, on the device.
    ///
    /// # Errors
    /// It is missing, has another shape, or a type other than F32, F16 and BF16.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
        self.cut(name, shape, &Cut::Whole)
    }

    /// This share's rows of a tensor that is of this shape as a whole: of a matrix `[out][in]` its outputs.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn rows(&self, name: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
        self.cut(name, shape, &self.share.rows(shape))
    }

    /// This share's columns of a matrix that is of this shape as a whole: its inputs.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn columns(&self, name: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
        self.cut(name, shape, &self.share.columns(shape))
    }

    /// Of a float tensor in a file no more is read, and of any no more goes to the device.
    fn cut(&self, name: &str, shape: &[usize], cut: &Cut) -> Result<Tensor, EngineError> {
        let files = match &self.source {
            Source::Files(files) => files,
            Source::Gguf(gguf) => {
                // Numbers of its blocks are not at hand one by one: the whole tensor is expanded, on the host.
                let whole = gguf.values(name, shape)?;
                let part = if *cut == Cut::Whole { whole } else { cut.of(&whole, shape, 1).into_owned() };
                return self.converted(name, part, gguf.dtype(name), &cut.shape(shape));
            }
            Source::Random => return self.converted(name, made_up(name, shape, cut), DType::F32, &cut.shape(shape)),
        };
        let found = files.iter().find_map(|(file, tensors)| Some((*file, tensors.tensor(name).ok()?)));
        let Some((file, view)) = found else {
            let names: Vec<&str> = files.iter().map(|(file, _)| *file).collect();
            return Err(EngineError::new(format!("tensor {name} is missing in {}", names.join(", "))));
        };
        if view.shape() != shape {
            return Err(EngineError::new(format!(
                "{file}: tensor {name} has shape {:?}, but config.json asks for {shape:?}",
                view.shape()
            )));
        }
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(EngineError::new(format!("{file}: tensor {name} is of type {other:?}; F32, F16 and BF16 are supported"))),
        };
        let (data, shape) = (cut.of(view.data(), shape, dtype.size_in_bytes()), cut.shape(shape));
        let tensor = Tensor::from_raw_buffer(&data, dtype, &shape, &self.device).and_then(|t| t.to_dtype(self.dtype.unwrap_or(dtype)));
        tensor.map_err(failed(format!("{file}: tensor {name}")))
    }

    /// The rows of a matrix whose numbers are quantised in the file and are to stay so.
    ///
    /// # Errors
    /// It is missing, cut short, or has another shape.
    pub fn quantised(&self, name: &str, shape: [usize; 2]) -> Result<Option<QuantisedRows<'f>>, EngineError> {
        match (&self.source, self.dtype) {
            (Source::Gguf(gguf), None) if self.share == Share::WHOLE => gguf.quantised(name, shape),
            _ => Ok(None),
        }
    }

    /// A tensor of values that are of this data type in their file.
    fn converted(&self, name: &str, values: Vec<f32>, dtype: DType, shape: &[usize]) -> Result<Tensor, EngineError> {
        let tensor = Tensor::from_vec(values, shape, &self.device).and_then(|t| t.to_dtype(self.dtype.unwrap_or(dtype)));
        tensor.map_err(failed(format!("tensor {name}")))
    }
}

/// Random values of a part of a tensor, from its name: uniform with a standard deviation of 0.02.
fn made_up(name: &str, shape: &[usize], cut: &Cut) -> Vec<f32> {
    const SPREAD: f32 = 0.02 * 1.732_050_8;
    let of_cut = cut.shape(shape);
    let count = of_cut.iter().product();
    if name.ends_with("norm.weight") {
        return vec![1.0; count];
    }
    if name.ends_with("bias") {
        return vec![0.0; count];
    }
    // A digest of the name, then a generator for each row: rows are made side by side, and none that is not asked for.
    let seed = Sha256::digest(name).first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let row = of_cut[1..].iter().product::<usize>();
    let (above, left) = match cut {
        Cut::Whole => (0, 0),
        Cut::Rows(range) => (range.start, 0),
        Cut::Columns(range) => (0, range.start),
    };
    let mut values = vec![0.0; count];
    values.par_chunks_mut(row.max(1)).enumerate().for_each(|(index, row)| {
        let mut state = seed.wrapping_add(((above + index) as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        let mut next = || {
            // xorshift64*: its upper bits are even enough for weights.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let bits = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32;
            (bits / (1u32 << 23) as f32 - 1.0) * SPREAD
        };
        for _ in 0..left {
            next();
        }
        row.iter_mut().for_each(|value| *value = next());
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: Vec<u8>) -> String {
        let weights = vec![WeightFile { name: "a/model.safetensors".into(), bytes: Bytes::Static(bytes.leak()) }];
        let files = ModelFiles {
            config: Vec::new(),
            generation_config: None,
            tokenizer: Vec::new(),
            tokenizer_config: None,
            special_tokens_map: None,
            chat_template: None,
            weights,
        };
        files.weights_sha256()
    }

    #[test]
    fn what_rounding_cannot_tell_apart_is_noise() {
        for (rounding, step) in [(Rounding::Bf16, 0.125), (Rounding::F16, 0.0157)] {
            let mut pair = [17.0, 17.0 + 0.49 * step];
            rounding.apply(&mut pair);
            assert_eq!(pair[0], pair[1], "{rounding:?}");
            assert!(rounding.noise(17.0) >= step, "{rounding:?}");
        }
        let mut pair = [17.0, 17.000_01];
        Rounding::None.apply(&mut pair);
        assert_eq!((pair, Rounding::None.noise(17.0)), ([17.0, 17.000_01], 1e-3));
    }

    #[test]
    fn made_up_weights_are_random_and_the_same_again() {
        let whole = |name: &str, shape: &[usize]| made_up(name, shape, &Cut::Whole);
        let values = whole("model.layers.0.mlp.down_proj.weight", &[64, 100]);
        assert_eq!(values, whole("model.layers.0.mlp.down_proj.weight", &[64, 100]));
        assert_ne!(values, whole("model.layers.1.mlp.down_proj.weight", &[64, 100]));
        let mean = values.iter().sum::<f32>() / 6400.0;
        let spread = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 6400.0).sqrt();
        assert!(mean.abs() < 1e-3 && (spread / 0.02 - 1.0).abs() < 0.03, "{mean} {spread}");
        assert_eq!((whole("model.norm.weight", &[2]), whole("q_proj.bias", &[2])), (vec![1.0; 2], vec![0.0; 2]));
    }

    #[test]
    fn trainings_of_one_shape_have_different_hashes() {
        let small = vec![0u8; 100];
        let mut last = small.clone();
        last[99] = 1;
        assert_ne!(hash(small), hash(last), "small files are hashed whole");
        let large = vec![0u8; (64 << 20) + 5];
        let mut other = large.clone();
        other[8 + (3 << 20) + 17] = 1;
        assert_ne!(hash(large), hash(other), "a sampled byte differs");
    }
}
