//! Which devices compute, and how they share the work: `--device`, `--tensor-parallel-size`, `--data-parallel-size`.

use crate::engine::EngineError;
use crate::engine::llama::device::{BackendKind, Place};
use std::num::NonZeroUsize;

/// More devices than any machine has: what is beyond is a slip of the pen.
const MOST: usize = 256;

/// Whole models, each on one device or split over several.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Of every replica the places of its ranks.
    replicas: Vec<Vec<Place>>,
}

impl Layout {
    /// Finds devices by name, comma separated ([`Place::find`]): as many as the two sizes multiplied, or one name that stands for all. `cuda` and
    /// `auto` take the first GPUs; `cpu` and `cpu-tensors` hold any number. Where only the names are given, every device gets a whole model.
    ///
    /// # Errors
    /// An unknown device, one that cannot be used, another number of devices than the sizes ask for, a split that the CPU's kernels do not have.
    pub fn find(names: &str, tensor: Option<NonZeroUsize>, data: Option<NonZeroUsize>) -> Result<Self, EngineError> {
        let names: Vec<&str> = names.split(',').map(str::trim).collect();
        let tensor = tensor.map_or(1, NonZeroUsize::get);
        let data = data.map_or_else(|| (names.len() / tensor).max(1), NonZeroUsize::get);
        let count = tensor.checked_mul(data).filter(|count| *count <= MOST);
        let asked = format!("--tensor-parallel-size {tensor} and --data-parallel-size {data}");
        let count = count.ok_or_else(|| EngineError::new(format!("{asked} ask for more than {MOST} devices")))?;
        let places = match names.as_slice() {
            [name] => places(name, count, &asked)?,
            names if names.len() != count => {
                return Err(EngineError::with_hint(
                    format!("--device names {} devices, but {asked} ask for {count}", names.len()),
                    "name as many devices as the two sizes multiplied, or leave --data-parallel-size out",
                ));
            }
            names => names.iter().map(|name| one_of_several(name)).collect::<Result<_, _>>()?,
        };
        if let Some(other) = places.iter().find(|place| place.kind() != places[0].kind()) {
            return Err(EngineError::new(format!("--device names {} beside {}: all must be of one kind", places[0].name(), other.name())));
        }
        let layout = Layout { replicas: places.chunks(tensor).map(<[Place]>::to_vec).collect() };
        if tensor > 1 && layout.first().backend() == BackendKind::Kernels {
            let why = layout.first().note().map(|note| format!("; {note}")).unwrap_or_default();
            return Err(EngineError::with_hint(
                format!("--tensor-parallel-size {tensor} wants GPUs, and the device is cpu, whose memory one model has to itself{why}"),
                "leave --tensor-parallel-size out; --device cpu-tensors splits a model too, for tests",
            ));
        }
        Ok(layout)
    }

    /// Places of the ranks of every replica.
    pub fn replicas(&self) -> &[Vec<Place>] {
        &self.replicas
    }

    /// The first device: all others are of its kind.
    pub fn first(&self) -> &Place {
        &self.replicas[0][0]
    }

    /// Devices that hold one model together.
    pub fn ranks(&self) -> usize {
        self.replicas[0].len()
    }

    /// How many ranks of how many replicas lie on a device.
    pub fn tenants(&self, place: &Place) -> usize {
        self.replicas.iter().flatten().filter(|other| other.name() == place.name()).count()
    }
}

/// Whether two replicas can compute with one copy of the weights: each lies on one device, and it is the same.
pub(super) fn share_weights(one: &[Place], other: &[Place]) -> bool {
    matches!((one, other), ([one], [other]) if one.name() == other.name())
}

/// So many places that one name stands for.
fn places(name: &str, count: usize, asked: &str) -> Result<Vec<Place>, EngineError> {
    let first = Place::find(name)?;
    if count == 1 || first.device().is_cpu() {
        return Ok(vec![first; count]);
    }
    if name != "auto" && name != "cuda" {
        return Err(EngineError::with_hint(
            format!("--device {name} names one device, but {asked} ask for {count}"),
            format!("--device cuda takes the first {count} GPUs; or name them, comma separated"),
        ));
    }
    let rest = (1..count).map(|ordinal| Place::find(&format!("cuda:{ordinal}")));
    std::iter::once(Ok(first)).chain(rest).collect()
}

fn one_of_several(name: &str) -> Result<Place, EngineError> {
    if name == "auto" {
        return Err(EngineError::with_hint("--device names auto among others", "name every device, or auto alone"));
    }
    Place::find(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(names: &str, tensor: usize, data: usize) -> Result<Vec<usize>, String> {
        let layout = Layout::find(names, NonZeroUsize::new(tensor), NonZeroUsize::new(data)).map_err(|e| e.message)?;
        Ok(layout.replicas().iter().map(Vec::len).collect())
    }

    #[test]
    fn one_name_stands_for_all_or_every_device_is_named() {
        for (names, tensor, data, expected) in [
            ("cpu", 0, 0, vec![1]),
            ("cpu", 0, 3, vec![1, 1, 1]),
            ("cpu-tensors", 2, 0, vec![2]),
            ("cpu-tensors", 2, 2, vec![2, 2]),
            ("cpu, cpu", 0, 0, vec![1, 1]),
            ("cpu-tensors,cpu-tensors", 2, 0, vec![2]),
            ("cpu-tensors,cpu-tensors,cpu-tensors,cpu-tensors", 2, 0, vec![2, 2]),
        ] {
            assert_eq!(find(names, tensor, data), Ok(expected), "{names} {tensor} {data}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        for (names, tensor, data, expected) in [
            ("cpu", 2, 0, "--tensor-parallel-size 2 wants GPUs, and the device is cpu"),
            ("cpu,cpu,cpu", 2, 0, "--device names 3 devices, but --tensor-parallel-size 2 and --data-parallel-size 1 ask for 2"),
            ("cpu,cpu", 0, 3, "--device names 2 devices, but --tensor-parallel-size 1 and --data-parallel-size 3 ask for 3"),
            ("cpu,cpu-tensors", 0, 0, "--device names cpu beside cpu-tensors: all must be of one kind"),
            ("cpu,auto", 0, 0, "--device names auto among others"),
            ("cpu,", 0, 0, "unknown device \"\""),
            ("cpu", 0, 1000, "ask for more than 256 devices"),
            ("cpu", usize::MAX, 2, "ask for more than 256 devices"),
        ] {
            let error = find(names, tensor, data).expect_err(names);
            assert!(error.contains(expected), "{names} {tensor} {data}: {error}");
        }
    }

    #[test]
    fn tenants_of_a_device_are_counted_over_all_replicas() {
        let layout = Layout::find("cpu-tensors", NonZeroUsize::new(2), NonZeroUsize::new(3)).unwrap();
        assert_eq!((layout.ranks(), layout.tenants(layout.first())), (2, 6));
    }
}
