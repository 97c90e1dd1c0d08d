//! Sums by NCCL, in a build with the feature `nccl`. Has never run: it wants two GPUs (docs/cuda.md).

pub(super) use with::Nccl;

/// Over cudarc's bindings. cudarc's own communicator cannot be given up while another rank waits for it.
#[cfg(feature = "nccl")]
mod with {
    use crate::engine::EngineError;
    use crate::engine::llama::device::Place;
    use crate::engine::llama::dist::peers::deserted;
    use candle_core::backend::BackendStorage;
    use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
    use candle_core::cuda_backend::cudarc::nccl::{result, sys};
    use candle_core::cuda_backend::{CudaDType, CudaStorageSlice};
    use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Error, Layout, Result, Shape, Tensor, bail};
    use half::{bf16, f16};
    use std::sync::{Arc, Mutex, PoisonError};

    /// A communicator a rank.
    #[derive(Debug)]
    pub(in crate::engine::llama::dist) struct Nccl {
        ranks: Vec<Mutex<Communicator>>,
    }

    /// `None` when it was given up.
    #[derive(Debug)]
    struct Communicator(Option<sys::ncclComm_t>);

    #[expect(unsafe_code, reason = "NCCL lets any thread use a communicator, one at a time: it lies behind a lock")]
    // SAFETY: the pointer is a handle of NCCL's, which is bound to a device and to no thread.
    unsafe impl Send for Communicator {}

    impl Nccl {
        /// Joins GPUs; `None` where ranks are no GPUs, or share one, which NCCL refuses.
        ///
        /// # Errors
        /// What NCCL says: it is not at hand, or the GPUs cannot reach each other.
        pub(in crate::engine::llama::dist) fn join(places: &[Place]) -> std::result::Result<Option<Self>, EngineError> {
            let mut ordinals = Vec::new();
            for place in places {
                let Ok(device) = place.device().as_cuda_device() else { return Ok(None) };
                let ordinal = device.cuda_stream().context().ordinal() as i32;
                if ordinals.contains(&ordinal) {
                    return Ok(None);
                }
                ordinals.push(ordinal);
            }
            let mut handles = vec![std::ptr::null_mut(); ordinals.len()];
            #[expect(unsafe_code, reason = "a call into NCCL")]
            // SAFETY: both lists have as many entries as the call is told.
            let joined = unsafe { result::comm_init_all(handles.as_mut_ptr(), ordinals.len() as i32, ordinals.as_ptr()) };
            joined.map_err(|e| {
                EngineError::with_hint(
                    format!("NCCL cannot join the {} GPUs: {}", ordinals.len(), said(&e)),
                    "libnccl.so.2 must be on the library path; NCCL_DEBUG=INFO makes NCCL say more; --data-parallel-size does without",
                )
            })?;
            Ok(Some(Nccl { ranks: handles.into_iter().map(|handle| Mutex::new(Communicator(Some(handle)))).collect() }))
        }

        /// The sum of what all ranks give.
        pub(in crate::engine::llama::dist) fn sum(&self, rank: usize, own: &Tensor) -> Result<Tensor> {
            own.contiguous()?.apply_op1_no_bwd(&Sum { communicator: &self.ranks[rank] })
        }

        /// Ends what runs on all devices and every later sum.
        pub(in crate::engine::llama::dist) fn give_up(&self) {
            for rank in &self.ranks {
                let handle = rank.lock().unwrap_or_else(PoisonError::into_inner).0.take();
                if let Some(handle) = handle {
                    #[expect(unsafe_code, reason = "a call into NCCL")]
                    // SAFETY: the handle was taken out, so that nobody uses it again. Nothing is left to do where this fails.
                    let _ = unsafe { result::comm_abort(handle) };
                }
            }
        }
    }

    impl Drop for Nccl {
        fn drop(&mut self) {
            self.give_up();
        }
    }

    /// NCCL's words for an error; where it is not at hand those of its stand-in.
    fn said(error: &result::NcclError) -> String {
        #[expect(unsafe_code, reason = "a text of NCCL's")]
        // SAFETY: NCCL gives a constant text for every status.
        let text = unsafe { std::ffi::CStr::from_ptr(sys::ncclGetErrorString(error.0)) };
        text.to_string_lossy().into_owned()
    }

    /// One rank's part of a sum, on its own stream.
    struct Sum<'n> {
        communicator: &'n Mutex<Communicator>,
    }

    impl Sum<'_> {
        fn reduce<T: CudaDType + DeviceRepr>(
            &self,
            own: &CudaSlice<T>,
            of: sys::ncclDataType_t,
            storage: &CudaStorage,
            layout: &Layout,
        ) -> Result<CudaSlice<T>> {
            let Some((first, end)) = layout.contiguous_offsets() else { bail!("a sum over devices wants a tensor without gaps") };
            let (own, count, device) = (own.slice(first..end), end - first, storage.device());
            #[expect(unsafe_code, reason = "memory that the sum fills")]
            // SAFETY: every number is written by the sum before anything on this stream reads it.
            let mut sum = unsafe { device.alloc::<T>(count)? };
            let stream: Arc<CudaStream> = device.cuda_stream();
            {
                let communicator = self.communicator.lock().unwrap_or_else(PoisonError::into_inner);
                let handle = communicator.0.ok_or_else(deserted)?;
                let ((from, _from), (to, _to)) = (own.device_ptr(&stream), sum.device_ptr_mut(&stream));
                #[expect(unsafe_code, reason = "a call into NCCL")]
                // SAFETY: both pieces of memory have that many numbers of that type, and live on the communicator's device.
                let reduced = unsafe {
                    result::all_reduce(from as _, to as _, count, of, sys::ncclRedOp_t::ncclSum, handle, stream.cu_stream() as _)
                };
                reduced.map_err(|e| Error::Msg(format!("NCCL failed: {}", said(&e))))?;
            }
            Ok(sum)
        }
    }

    impl CustomOp1 for Sum<'_> {
        fn name(&self) -> &'static str {
            "sum over devices"
        }

        fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
            bail!("NCCL adds up on GPUs only")
        }

        fn cuda_fwd(&self, own: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
            use sys::ncclDataType_t::{ncclBfloat16, ncclFloat16, ncclFloat32};
            let slice = match own.dtype() {
                DType::F32 => CudaStorageSlice::F32(self.reduce(own.as_cuda_slice::<f32>()?, ncclFloat32, own, layout)?),
                DType::F16 => CudaStorageSlice::F16(self.reduce(own.as_cuda_slice::<f16>()?, ncclFloat16, own, layout)?),
                DType::BF16 => CudaStorageSlice::BF16(self.reduce(own.as_cuda_slice::<bf16>()?, ncclBfloat16, own, layout)?),
                other => bail!("no sum over devices of {other:?}"),
            };
            Ok((CudaStorage { slice, device: own.device().clone() }, layout.shape().clone()))
        }
    }
}

/// No NCCL: sums are taken on the host.
#[cfg(not(feature = "nccl"))]
mod with {
    use crate::engine::EngineError;
    use crate::engine::llama::device::Place;
    use candle_core::{Result, Tensor};

    /// There is none.
    #[derive(Debug)]
    pub(in crate::engine::llama::dist) enum Nccl {}

    impl Nccl {
        #[expect(clippy::unnecessary_wraps, reason = "a build with NCCL can fail here")]
        pub(in crate::engine::llama::dist) fn join(_: &[Place]) -> std::result::Result<Option<Self>, EngineError> {
            Ok(None)
        }

        pub(in crate::engine::llama::dist) fn sum(&self, _: usize, _: &Tensor) -> Result<Tensor> {
            match *self {}
        }

        pub(in crate::engine::llama::dist) fn give_up(&self) {
            match *self {}
        }
    }
}
