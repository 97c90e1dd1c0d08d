//! Which devices the in-process engine uses: the same flags for every verb that loads a model.

use super::exit::Failure;
use super::{engines, output::note};
use crate::engine::llama::dist::layout::Layout;
use std::num::NonZeroUsize;

/// Flags of the devices.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceArgs {
    /// Device of the in-process engine: cpu, cuda, cuda:N, or auto for a GPU where there is one; several, comma separated (cuda:0,cuda:1), get
    /// a whole model each unless --tensor-parallel-size splits it [default: auto]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub device: Option<String>,
    /// Split one model over N devices, for models that are too large for one [default: 1]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub tensor_parallel_size: Option<NonZeroUsize>,
    /// Answer with N whole models side by side, each on a device or, with --tensor-parallel-size, on that many; `--device cuda` or auto takes
    /// the first N (or N times as many) GPUs [default: as many as the named devices hold]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub data_parallel_size: Option<NonZeroUsize>,
}

impl DeviceArgs {
    /// `--device`, or the best there is.
    pub(super) fn names(&self) -> &str {
        self.device.as_deref().unwrap_or("auto")
    }

    /// Finds the devices, and says what a person should know about the choice.
    ///
    /// # Errors
    /// Exit 5: a device that cannot be used, or another number of devices than asked for.
    pub(super) fn find(&self) -> Result<Layout, Failure> {
        let layout = Layout::find(self.names(), self.tensor_parallel_size, self.data_parallel_size).map_err(engines::failure)?;
        layout.first().note().into_iter().for_each(note);
        Ok(layout)
    }

    /// These flags, and where one is not given another's.
    pub(super) fn or(self, other: DeviceArgs) -> Self {
        DeviceArgs {
            device: self.device.or(other.device),
            tensor_parallel_size: self.tensor_parallel_size.or(other.tensor_parallel_size),
            data_parallel_size: self.data_parallel_size.or(other.data_parallel_size),
        }
    }
}
