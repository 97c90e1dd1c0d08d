//! Operations written for this program, in place of several of the tensor library's: rotary embedding with the write into pages, attention over
//! pages, add and norm, the gate of the feed-forward layer, and what is read off rows of logits. Each has a form for the CPU, here, and one for a
//! GPU, in `cuda/*.cu`; an [`Op`] holds both. Tests run the `.cu` files on the CPU and compare the two forms.

pub(super) mod attention;
mod launch;
pub(super) mod logprobs;
#[cfg(test)]
mod on_host;
pub(super) mod rows;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail};
use half::{bf16, f16};
use launch::Launch;
use std::{cell::Cell, marker::PhantomData};

/// An operation that writes into tensors which are there already.
pub(super) struct Op<'o> {
    /// For a GPU: kernels, one after the other.
    launches: Vec<Launch<'o>>,
    /// For the CPU.
    on_cpu: Box<dyn FnOnce() -> Result<()> + 'o>,
}

impl<'o> Op<'o> {
    fn new(launches: Vec<Launch<'o>>, on_cpu: impl FnOnce() -> Result<()> + 'o) -> Self {
        Op { launches, on_cpu: Box::new(on_cpu) }
    }

    /// Computes where the tensors lie.
    ///
    /// # Errors
    /// A device that fails; a data type that is none of f32, bf16, f16.
    pub(super) fn run(self, device: &Device) -> Result<()> {
        if device.is_cpu() {
            return (self.on_cpu)();
        }
        self.launches.iter().try_for_each(|launch| launch.run(device))
    }
}

/// Memory for a result. On a GPU it is not cleared: an operation writes all of it.
fn blank(shape: impl Into<candle_core::Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    if device.is_cpu() {
        return Tensor::zeros(shape, dtype, device);
    }
    // SAFETY: numbers of these types may have any bits.
    #[expect(unsafe_code, reason = "memory that a kernel is about to fill need not be cleared")]
    unsafe {
        Tensor::empty(shape, dtype, device)
    }
}

/// A number of a tensor. Arithmetic is in f32.
pub(super) trait Number: WithDType {
    fn widen(self) -> f32;
    fn narrow(x: f32) -> Self;
    fn all_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! number {
    ($type:ty, $variant:ident, $widen:expr, $narrow:expr) => {
        impl Number for $type {
            fn widen(self) -> f32 {
                $widen(self)
            }
            fn narrow(x: f32) -> Self {
                $narrow(x)
            }
            fn all_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(numbers) => Some(numbers),
                    _ => None,
                }
            }
        }
    };
}

number!(f32, F32, std::convert::identity, std::convert::identity);
number!(bf16, BF16, bf16::to_f32, bf16::from_f32);
number!(f16, F16, f16::to_f32, f16::from_f32);

/// Calls a function for the type of a tensor's numbers.
macro_rules! by_type {
    ($tensor:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => $function::<f32>($($argument),*),
            candle_core::DType::BF16 => $function::<half::bf16>($($argument),*),
            candle_core::DType::F16 => $function::<half::f16>($($argument),*),
            other => candle_core::bail!("no operation for numbers of type {other:?}: there are f32, bf16, f16"),
        }
    };
}
use by_type;

/// Reads the numbers of a tensor in memory, without a copy.
fn reading<T: WithDType, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("a tensor of another device") };
    read(&storage.as_slice::<T>()?[contiguous(layout)?])
}

/// Writes the numbers of a tensor in memory.
fn writing<T: Number>(tensor: &Tensor, write: impl FnOnce(&mut [T])) -> Result<()> {
    tensor.inplace_op1(&Write(Cell::new(Some(write)), PhantomData))
}

struct Write<F, T>(Cell<Option<F>>, PhantomData<T>);

impl<T: Number, F: FnOnce(&mut [T])> InplaceOp1 for Write<F, T> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let range = contiguous(layout)?;
        let (Some(numbers), Some(write)) = (T::all_mut(storage), self.0.take()) else { bail!("numbers of another type") };
        write(&mut numbers[range]);
        Ok(())
    }
}

fn contiguous(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("numbers that do not lie one after the other"),
    }
}
