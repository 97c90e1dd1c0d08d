//! Kernels with their arguments: what a GPU is told.

use candle_core::{DType, Tensor};

/// A kernel and what it is called with.
#[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "only a GPU reads what it is told"))]
pub(super) struct Launch<'l> {
    /// Its name, without the type of its numbers.
    pub(super) kernel: String,
    pub(super) source: Source,
    /// Blocks.
    pub(super) grid: (usize, usize),
    /// Of a block: whole warps.
    pub(super) threads: usize,
    /// Bytes of a block.
    pub(super) shared: usize,
    pub(super) arguments: Vec<Argument<'l>>,
}

/// An argument of a kernel.
#[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "only a GPU reads what it is told"))]
pub(super) enum Argument<'l> {
    Tensor(&'l Tensor),
    U32(usize),
    F32(f32),
}

/// Which file a kernel is in.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Attention,
    Rows,
}

/// How a kernel's name ends for numbers of a type.
pub(super) fn suffix(tensor: &Tensor) -> &'static str {
    match tensor.dtype() {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        _ => "f32",
    }
}

#[cfg(not(feature = "cuda"))]
impl Launch<'_> {
    pub(super) fn run(&self, _: &candle_core::Device) -> candle_core::Result<()> {
        let file = match self.source {
            Source::Attention => "attention",
            Source::Rows => "rows",
        };
        candle_core::bail!("kernel {} of {file}.cu: this build has no CUDA support", self.kernel)
    }
}

#[cfg(feature = "cuda")]
mod gpu {
    use super::{Argument, Launch, Source};
    use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg, SyncOnDrop};
    use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
    use candle_core::{Device, Layout, Result, Storage, bail};

    impl Source {
        /// Name and PTX, as the build script compiled them.
        fn module(self) -> (&'static str, &'static str) {
            match self {
                Source::Attention => ("swallow_attention", include_str!(concat!(env!("OUT_DIR"), "/attention.ptx"))),
                Source::Rows => ("swallow_rows", include_str!(concat!(env!("OUT_DIR"), "/rows.ptx"))),
            }
        }
    }

    /// An argument as the driver takes it.
    enum Word {
        Address(u64),
        U32(u32),
        F32(f32),
    }

    impl Launch<'_> {
        /// Puts the kernel into the device's stream. Tensors that it writes are only borrowed: the stream is the only one of its device, so that
        /// whatever reads them later runs later.
        pub(in super::super) fn run(&self, device: &Device) -> Result<()> {
            let device = device.as_cuda_device()?;
            let (module, ptx) = self.source.module();
            let kernel = device.get_or_load_custom_func(&self.kernel, module, ptx)?;
            let stream = device.cuda_stream();
            let held: Vec<_> = self
                .arguments
                .iter()
                .map(|argument| match argument {
                    Argument::Tensor(tensor) => Some(tensor.storage_and_layout()),
                    _ => None,
                })
                .collect();
            let mut used = Vec::new();
            let mut words = Vec::with_capacity(held.len());
            for (argument, held) in self.arguments.iter().zip(&held) {
                words.push(match (argument, held) {
                    (Argument::Tensor(_), Some((storage, layout))) => Word::Address(address(storage, layout, &stream, &mut used)?),
                    (Argument::F32(number), _) => Word::F32(*number),
                    (Argument::U32(number), _) => Word::U32(*number as u32),
                    (Argument::Tensor(_), None) => bail!("a tensor without storage"),
                });
            }
            let mut builder = kernel.builder();
            for word in &words {
                match word {
                    Word::Address(address) => builder.arg(address),
                    Word::U32(number) => builder.arg(number),
                    Word::F32(number) => builder.arg(number),
                };
            }
            let grid_dim = (self.grid.0 as u32, self.grid.1 as u32, 1);
            let config = LaunchConfig { grid_dim, block_dim: (self.threads as u32, 1, 1), shared_mem_bytes: self.shared as u32 };
            // SAFETY: the arguments are those the kernel is declared with and the tensors are as large as it takes them to be; the tests run the
            // same launches with every access checked.
            #[expect(unsafe_code, reason = "what a kernel does with its arguments is out of the compiler's sight")]
            unsafe { builder.launch(config) }.w()?;
            Ok(())
        }
    }

    /// Where a tensor's numbers begin. What marks them as used goes to `used`.
    fn address<'t>(storage: &'t Storage, layout: &Layout, stream: &'t CudaStream, used: &mut Vec<SyncOnDrop<'t>>) -> Result<u64> {
        let Storage::Cuda(storage) = storage else { bail!("a tensor of another device") };
        let Some((start, _)) = layout.contiguous_offsets() else { bail!("numbers that do not lie one after the other") };
        let mut begin = |(address, mark): (u64, SyncOnDrop<'t>), bytes: usize| {
            used.push(mark);
            address + (start * bytes) as u64
        };
        Ok(match &storage.slice {
            CudaStorageSlice::U32(slice) => begin(of(slice, stream), 4),
            CudaStorageSlice::F32(slice) => begin(of(slice, stream), 4),
            CudaStorageSlice::BF16(slice) => begin(of(slice, stream), 2),
            CudaStorageSlice::F16(slice) => begin(of(slice, stream), 2),
            _ => bail!("numbers of a type that no kernel takes"),
        })
    }

    fn of<'t, T>(slice: &'t CudaSlice<T>, stream: &'t CudaStream) -> (u64, SyncOnDrop<'t>) {
        slice.device_ptr(stream)
    }
}
