//! Where a model computes and in which numbers: `--device` and `--dtype`.

use super::LogitType;
use super::weights::Rounding;
use crate::engine::EngineError;
use candle_core::{DType, Device};
use std::fmt::Display;

/// A device that was found, and who computes there.
#[derive(Clone, Debug)]
pub struct Place {
    device: Device,
    backend: BackendKind,
    name: String,
    hardware: Option<String>,
    note: Option<String>,
}

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// This program's own kernels for the CPU.
    Kernels,
    /// Tensor operations.
    Tensors,
}

impl Place {
    /// Finds a device: `cpu`, `cuda`, `cuda:N`, or `auto` for the first GPU where there is one and the CPU where not. `cpu-tensors` is for
    /// tests: what a GPU computes, computed by the CPU.
    ///
    /// # Errors
    /// An unknown name; a GPU that this build, the driver or the machine does not have.
    pub fn find(name: &str) -> Result<Self, EngineError> {
        match name {
            "auto" => Ok(Place::auto()),
            "cpu" => Ok(Place::kernels()),
            "cpu-tensors" => Ok(Place { backend: BackendKind::Tensors, name: name.to_owned(), ..Place::kernels() }),
            "cuda" => Place::cuda(name, 0),
            other => match other.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Place::cuda(name, ordinal),
                _ => Err(EngineError::with_hint(format!("unknown device {other:?}"), "devices are: auto, cpu, cuda, cuda:N")),
            },
        }
    }

    /// The CPU with its kernels.
    pub fn kernels() -> Self {
        Place { device: Device::Cpu, backend: BackendKind::Kernels, name: "cpu".to_owned(), hardware: None, note: None }
    }

    fn auto() -> Self {
        if !cfg!(feature = "cuda") {
            return Place::kernels();
        }
        Place::cuda("cuda", 0).unwrap_or_else(|error| {
            let note = format!("no GPU is used, the model computes on the CPU: {}", error.message);
            Place { note: Some(note), ..Place::kernels() }
        })
    }

    fn cuda(asked: &str, ordinal: usize) -> Result<Self, EngineError> {
        let (device, hardware) = gpu::open(asked, ordinal)?;
        Ok(Place { device, backend: BackendKind::Tensors, name: format!("cuda:{ordinal}"), hardware: Some(hardware), note: None })
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Who computes.
    pub fn backend(&self) -> BackendKind {
        self.backend
    }

    /// `cpu`, `cpu-tensors`, `cuda:0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name without the number of the GPU: what a signature says.
    pub fn kind(&self) -> &str {
        self.name.split(':').next().unwrap_or_default()
    }

    /// What a GPU says it is.
    pub fn hardware(&self) -> Option<&str> {
        self.hardware.as_deref()
    }

    /// What a person should know about the choice.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Bytes that are free on a GPU now; `None` on the CPU.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn free_memory(&self) -> Result<Option<u64>, EngineError> {
        gpu::free_memory(&self.device).map_err(|why| EngineError::new(format!("{}: the free memory is not known: {why}", self.name)))
    }
}

/// In which numbers a model computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Numbers {
    /// f32 in the CPU's kernels; what weights and logits are rounded to.
    Kernels {
        /// Weights, once, when they are loaded.
        weights: Rounding,
        /// Whether unrounded weights stay in memory as their file has them, and are widened where they are used; else when they are loaded.
        stored: bool,
        /// Logits.
        logits: Rounding,
    },
    /// A data type for weights, keys, values and what goes from layer to layer.
    Tensors {
        /// F32, BF16 or F16.
        dtype: DType,
        /// That of the output head.
        logits: LogitType,
    },
}

impl Numbers {
    /// Reads `--dtype`; where it is not given, the CPU's kernels take f32, with the weights as they are in memory, and tensors what config.json
    /// says the weights are.
    ///
    /// # Errors
    /// A data type that the engine does not have.
    pub fn of(backend: BackendKind, asked: Option<&str>, of_model: Option<&str>, logits: LogitType) -> Result<Self, EngineError> {
        let own = match of_model {
            Some("bfloat16") => "bf16",
            Some("float16") => "f16",
            _ => "f32",
        };
        let dtype = asked.unwrap_or(if backend == BackendKind::Tensors { own } else { "f32" });
        let (rounding, dtype) = match dtype {
            "f32" => (Rounding::None, DType::F32),
            "bf16" => (Rounding::Bf16, DType::BF16),
            "f16" => (Rounding::F16, DType::F16),
            other => {
                return Err(EngineError::with_hint(format!("unknown data type {other:?}"), "this engine has: f32, bf16, f16"));
            }
        };
        let stored = asked.is_none();
        Ok(match (backend, logits) {
            (BackendKind::Tensors, logits) => Numbers::Tensors { dtype, logits },
            (BackendKind::Kernels, LogitType::AsWeights) => Numbers::Kernels { weights: rounding, stored, logits: rounding },
            (BackendKind::Kernels, LogitType::F32) => Numbers::Kernels { weights: rounding, stored, logits: Rounding::None },
        })
    }

    /// What a signature says.
    pub fn label(self) -> &'static str {
        match self {
            Numbers::Kernels { weights: Rounding::None, .. } | Numbers::Tensors { dtype: DType::F32, .. } => "f32",
            Numbers::Kernels { weights: Rounding::Bf16, logits: Rounding::None, .. } => "f32(bf16-weights)",
            Numbers::Kernels { weights: Rounding::Bf16, .. } => "f32(bf16-weights-and-logits)",
            Numbers::Kernels { weights: Rounding::F16, logits: Rounding::None, .. } => "f32(f16-weights)",
            Numbers::Kernels { weights: Rounding::F16, .. } => "f32(f16-weights-and-logits)",
            Numbers::Tensors { dtype: DType::BF16, logits: LogitType::AsWeights } => "bf16",
            Numbers::Tensors { dtype: DType::BF16, logits: LogitType::F32 } => "bf16(f32-logits)",
            Numbers::Tensors { logits: LogitType::AsWeights, .. } => "f16",
            Numbers::Tensors { logits: LogitType::F32, .. } => "f16(f32-logits)",
        }
    }

    /// The data type that weights are kept in; that of their file where `None`.
    pub(super) fn weights(self) -> Option<DType> {
        match self {
            Numbers::Kernels { weights: Rounding::None, stored, .. } => (!stored).then_some(DType::F32),
            Numbers::Kernels { weights: Rounding::Bf16, .. } => Some(DType::BF16),
            Numbers::Kernels { weights: Rounding::F16, .. } => Some(DType::F16),
            Numbers::Tensors { dtype, .. } => Some(dtype),
        }
    }

    /// What is still to be done to logits when they were computed.
    pub(super) fn rounding(self) -> Rounding {
        match self {
            Numbers::Kernels { logits, .. } => logits,
            Numbers::Tensors { .. } => Rounding::None,
        }
    }

    /// What logits, or the numbers they are computed from, were rounded to.
    pub(super) fn noise(self) -> Rounding {
        match self {
            Numbers::Kernels { logits, .. } => logits,
            Numbers::Tensors { dtype: DType::BF16, .. } => Rounding::Bf16,
            Numbers::Tensors { dtype: DType::F16, .. } => Rounding::F16,
            Numbers::Tensors { .. } => Rounding::None,
        }
    }

    /// Bytes of a weight and of a number in the pages.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Numbers::Kernels { .. } => DType::F32.size_in_bytes() as u64,
            Numbers::Tensors { dtype, .. } => dtype.size_in_bytes() as u64,
        }
    }

    /// Bytes of a weight of the output head.
    pub(super) fn head_bytes(self) -> u64 {
        match self {
            Numbers::Tensors { logits: LogitType::F32, .. } => DType::F32.size_in_bytes() as u64,
            other => other.bytes(),
        }
    }
}

/// An error of the tensor library, with what was being done.
pub(super) fn failed(what: impl Display) -> impl Fn(candle_core::Error) -> EngineError {
    move |error| EngineError::new(format!("{what}: {}", said(&error)))
}

/// What the tensor library says, without the stack that it adds where RUST_BACKTRACE is set.
pub(super) fn said(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// GPUs, in a build that can use them.
#[cfg(feature = "cuda")]
mod gpu {
    use super::{Device, EngineError, said};

    /// A stream of its own: the library's usual one is another for every thread, and steps go from thread to thread.
    pub(super) fn open(asked: &str, ordinal: usize) -> Result<(Device, String), EngineError> {
        let failed = |why: String| {
            EngineError::with_hint(
                format!("device {asked} cannot be used: {why}"),
                "--device cpu computes without a GPU; a GPU wants NVIDIA's driver, and cuBLAS, cuRAND and NVRTC on the library path (docs/cuda.md)",
            )
        };
        let device = Device::new_cuda_with_stream(ordinal).map_err(|e| failed(said(&e)))?;
        let hardware = name(&device).map_err(failed)?;
        Ok((device, hardware))
    }

    fn name(device: &Device) -> Result<String, String> {
        let stream = device.as_cuda_device().map_err(|e| said(&e))?.cuda_stream();
        let context = stream.context();
        let name = context.name().map_err(|e| e.to_string())?;
        let (major, minor) = context.compute_capability().map_err(|e| e.to_string())?;
        Ok(format!("{name}, compute capability {major}.{minor}"))
    }

    pub(super) fn free_memory(device: &Device) -> Result<Option<u64>, String> {
        if !device.is_cuda() {
            return Ok(None);
        }
        let stream = device.as_cuda_device().map_err(|e| said(&e))?.cuda_stream();
        let (free, _) = stream.context().mem_get_info().map_err(|e| e.to_string())?;
        Ok(Some(free as u64))
    }
}

/// No GPUs.
#[cfg(not(feature = "cuda"))]
mod gpu {
    use super::{Device, EngineError};

    pub(super) fn open(asked: &str, _: usize) -> Result<(Device, String), EngineError> {
        Err(EngineError::with_hint(
            format!("this build has no CUDA support, but the device is {asked}"),
            "leave --device out to use the CPU, build with the feature cuda (docs/cuda.md), or serve the model with vLLM and name it with --base-url",
        ))
    }

    pub(super) fn free_memory(_: &Device) -> Result<Option<u64>, String> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_or_named() {
        for (name, found, backend) in [("cpu", "cpu", BackendKind::Kernels), ("cpu-tensors", "cpu-tensors", BackendKind::Tensors)] {
            let place = Place::find(name).unwrap();
            assert_eq!((place.name(), place.backend(), place.free_memory().unwrap()), (found, backend, None));
        }
        for name in ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", ""] {
            let error = Place::find(name).unwrap_err();
            assert_eq!((error.message, error.hint.is_some()), (format!("unknown device {name:?}"), true));
        }
        // Whatever the build and the machine have, there is a place.
        assert!(Place::find("auto").is_ok());
    }

    #[test]
    fn an_error_is_told_without_its_stack() {
        let error = candle_core::Error::Msg("no memory\n   0: candle_core::f\n   1: main\n".to_owned());
        assert_eq!(failed("layer 3")(error).message, "layer 3: no memory");
    }

    #[test]
    fn without_a_type_tensors_take_the_models_own_and_kernels_f32() {
        use BackendKind::{Kernels, Tensors};
        for (backend, asked, of_model, logits, label) in [
            (Kernels, None, Some("bfloat16"), LogitType::AsWeights, "f32"),
            (Tensors, None, Some("bfloat16"), LogitType::AsWeights, "bf16"),
            (Tensors, None, Some("float16"), LogitType::AsWeights, "f16"),
            (Tensors, None, Some("float32"), LogitType::AsWeights, "f32"),
            (Tensors, None, None, LogitType::AsWeights, "f32"),
            (Tensors, Some("f32"), Some("bfloat16"), LogitType::F32, "f32"),
            (Tensors, Some("bf16"), None, LogitType::F32, "bf16(f32-logits)"),
            (Kernels, Some("f16"), None, LogitType::F32, "f32(f16-weights)"),
        ] {
            assert_eq!(Numbers::of(backend, asked, of_model, logits).unwrap().label(), label, "{backend:?} {asked:?} {of_model:?}");
        }
    }
}
