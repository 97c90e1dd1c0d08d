//! The `.cu` files, taken by a C++ compiler and run on the CPU (`tests/cuda_on_host`): every kernel against its form for the CPU, on random shapes.
//! What a launch writes was not a number before; what it touches beside its tensors, and what depends on the order of threads, ends the program.

use super::attention::{Attended, Tiles};
use super::launch::{Argument, Launch};
use super::logprobs::{self, Asked};
use super::rows::{self, Slots};
use super::{Number, Op, reading, writing};
use crate::engine::llama::kv::PAGE;
use crate::engine::llama::ops::{Heads, Segment};
use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};
use proptest::prelude::*;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};

/// The program that runs kernels.
struct Host {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// What it said at its end.
    said: String,
}

/// The program, compiled at first use; `None` where there is no C++ compiler.
fn host() -> Option<MutexGuard<'static, Host>> {
    static HOST: OnceLock<Option<Mutex<Host>>> = OnceLock::new();
    let host = HOST.get_or_init(|| Host::compile().map(Mutex::new)).as_ref();
    // After a test that failed the program may be in the middle of a launch; the others then fail too.
    host.map(|host| host.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

impl Host {
    #[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "a test may ask the C++ compiler, and says what it skips")]
    fn compile() -> Option<Host> {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        if !cfg!(all(target_os = "linux", target_pointer_width = "64")) || Command::new(&compiler).arg("--version").output().is_err() {
            eprintln!("skipped: no C++ compiler {compiler} that makes programs for 64-bit Linux");
            return None;
        }
        let (root, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")), tempfile::tempdir().unwrap());
        let (program, here) = (folder.path().join("run"), root.join("tests/cuda_on_host"));
        let mut command = Command::new(&compiler);
        command.args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", "-I"]);
        command.arg(&here).arg("-I").arg(root.join("src/engine/llama/tensors/cuda")).arg("-o").arg(&program).arg(here.join("run.cpp"));
        let compiled = command.output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let mut child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        // The program runs on without its file.
        drop(folder);
        Some(Host { child, to, from, said: String::new() })
    }

    /// Runs the kernels of an operation on copies of its tensors, and writes the copies back.
    fn run(&mut self, op: &Op<'_>) {
        for launch in &op.launches {
            if self.to.write_all(&message(launch)).and_then(|()| self.to.flush()).is_err() {
                self.fail();
            }
            for argument in &launch.arguments {
                let Argument::Tensor(tensor) = argument else { continue };
                let mut bytes = vec![0; tensor.elem_count() * tensor.dtype().size_in_bytes()];
                if self.from.read_exact(&mut bytes).is_err() {
                    self.fail();
                }
                set_bytes(tensor, &bytes).unwrap();
            }
        }
    }

    /// Tells what the program said at its end.
    fn fail(&mut self) -> ! {
        self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut self.said));
        panic!("the kernels' program ended: {:?} {}", self.child.wait(), self.said);
    }
}

/// A launch as `run.cpp` reads it.
fn message(launch: &Launch<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    let numbers = |message: &mut Vec<u8>, numbers: &[usize]| {
        message.extend(numbers.iter().flat_map(|number| u32::try_from(*number).unwrap().to_le_bytes()));
    };
    numbers(&mut message, &[launch.kernel.len()]);
    message.extend(launch.kernel.as_bytes());
    numbers(&mut message, &[launch.grid.0, launch.grid.1, launch.threads, launch.shared, launch.arguments.len()]);
    for argument in &launch.arguments {
        match argument {
            Argument::U32(number) => numbers(&mut message, &[0, *number]),
            Argument::F32(number) => numbers(&mut message, &[0, number.to_bits() as usize]),
            Argument::Tensor(tensor) => {
                let bytes = bytes_of(tensor).unwrap();
                numbers(&mut message, &[1, bytes.len()]);
                message.extend(bytes);
            }
        }
    }
    message
}

fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    match tensor.dtype() {
        DType::U32 => reading(tensor, |all: &[u32]| Ok(all.iter().flat_map(|x| x.to_le_bytes()).collect())),
        DType::BF16 => reading(tensor, |all: &[bf16]| Ok(all.iter().flat_map(|x| x.to_le_bytes()).collect())),
        DType::F16 => reading(tensor, |all: &[f16]| Ok(all.iter().flat_map(|x| x.to_le_bytes()).collect())),
        _ => reading(tensor, |all: &[f32]| Ok(all.iter().flat_map(|x| x.to_le_bytes()).collect())),
    }
}

/// Writes numbers back; those that no operation writes (u32) must be as they were.
fn set_bytes(tensor: &Tensor, bytes: &[u8]) -> Result<()> {
    fn set<T: Number, const N: usize>(tensor: &Tensor, bytes: &[u8], of: fn([u8; N]) -> T) -> Result<()> {
        writing(tensor, |all: &mut [T]| all.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(to, from)| *to = of(*from)))
    }
    match tensor.dtype() {
        DType::U32 => {
            assert_eq!(bytes_of(tensor)?, bytes, "ids and places are only read");
            Ok(())
        }
        DType::BF16 => set(tensor, bytes, bf16::from_le_bytes),
        DType::F16 => set(tensor, bytes, f16::from_le_bytes),
        _ => set(tensor, bytes, f32::from_le_bytes),
    }
}

/// Numbers without a pattern from -2 to 2.
fn numbers(shape: &[usize], dtype: DType, seed: u64) -> Tensor {
    let at = |i: u64| {
        let mixed = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 40) as f32 / (1u64 << 22) as f32) - 2.0
    };
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(at).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// What a kernel is to write: not numbers yet.
fn poisoned(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::full(f32::NAN, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// How far two ways to round the same number may be apart: a unit in the last place, and what f32 sums differ by.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 0.008,
        DType::F16 => 0.001,
        _ => 2e-5,
    }
}

/// Both forms of an operation, each into a tensor of its own.
fn agree(of_host: &Tensor, of_cpu: &Tensor, tolerance: f32) -> std::result::Result<(), TestCaseError> {
    for (at, (host, cpu)) in values(of_host).into_iter().zip(values(of_cpu)).enumerate() {
        prop_assert!((host - cpu).abs() <= tolerance * (1.0 + cpu.abs()), "number {at}: {host} by the kernel, {cpu} on the CPU");
    }
    Ok(())
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop::sample::select(vec![DType::F32, DType::BF16, DType::F16])
}

fn heads() -> impl Strategy<Value = Heads> {
    let groups = prop::sample::select(vec![(1usize, 1usize), (2, 2), (4, 1), (8, 2), (8, 1), (9, 3), (7, 1)]);
    (groups, prop::sample::select(vec![32usize, 64, 128])).prop_map(|((query, kv), dim)| Heads { query, kv, dim })
}

/// Segments, whose pages lie in any order, and how many pages there are.
fn segments() -> impl Strategy<Value = (Vec<Segment>, usize)> {
    let rows = prop::sample::select(vec![1usize, 1, 2, 5, 16, 31, 32, 33, 40]);
    let position = prop::sample::select(vec![0usize, 1, 30, 31, 32, 33, 63, 64, 100, 255, 256, 290, 600]);
    prop::collection::vec((rows, position), 1..4).prop_perturb(|lengths, mut random| {
        let pages: usize = lengths.iter().map(|(rows, position)| (rows + position).div_ceil(PAGE)).sum();
        let mut free: Vec<u32> = (0..pages as u32 + 2).collect();
        for at in (1..free.len()).rev() {
            free.swap(at, random.random_range(0..=at));
        }
        let mut segments = Vec::new();
        let mut row = 0;
        for (rows, position) in lengths {
            segments.push(Segment { row, rows, position, pages: free.drain(..(rows + position).div_ceil(PAGE)).collect() });
            row += rows;
        }
        (segments, pages + 2)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn attention((segments, pages) in segments(), heads in heads(), dtype in dtypes(), seed in any::<u64>()) {
        let Some(mut host) = host() else { return Ok(()) };
        let rows = segments.iter().map(|s| s.rows).sum();
        let paged = |seed| numbers(&[pages, PAGE, heads.kv * heads.dim], dtype, seed);
        let (queries, keys, values) = (numbers(&[rows, heads.query * heads.dim], dtype, seed), paged(seed ^ 1), paged(seed ^ 2));
        let attended = Attended { queries: &queries, keys: &keys, values: &values };
        let tiles = Tiles::new(&segments, heads, dtype, &Device::Cpu).unwrap();
        let sums = tiles.sums(|shape, dtype| Ok(poisoned(shape, dtype))).unwrap();
        let (of_host, of_cpu) = (poisoned(&[rows, heads.query * heads.dim], dtype), poisoned(&[rows, heads.query * heads.dim], dtype));
        host.run(&tiles.attention(attended, &sums, &of_host).unwrap());
        tiles.attention(attended, &sums, &of_cpu).unwrap().run(&Device::Cpu).unwrap();
        agree(&of_host, &of_cpu, tolerance(dtype))?;
    }

    #[test]
    fn rotation_and_pages((segments, pages) in segments(), heads in heads(), dtype in dtypes(), seed in any::<u64>()) {
        let Some(mut host) = host() else { return Ok(()) };
        let slot = |s: &Segment, at: usize| s.pages[at / PAGE] * PAGE as u32 + (at % PAGE) as u32;
        let slots: Vec<u32> = segments.iter().flat_map(|s| (s.position..s.position + s.rows).map(|at| slot(s, at)).collect::<Vec<_>>()).collect();
        let rows = slots.len();
        let slots = Tensor::from_vec(slots, rows, &Device::Cpu).unwrap();
        let qkv = numbers(&[rows, (heads.query + 2 * heads.kv) * heads.dim], dtype, seed);
        let (cos, sin) = (numbers(&[rows, heads.dim / 2], dtype, seed ^ 1), numbers(&[rows, heads.dim / 2], dtype, seed ^ 2));
        // What no row goes to keeps what it held.
        let paged = || [3, 4].map(|of| numbers(&[pages, PAGE, heads.kv * heads.dim], dtype, seed ^ of));
        let written = |by: &mut dyn FnMut(Op<'_>)| {
            let (queries, [keys, values]) = (poisoned(&[rows, heads.query * heads.dim], dtype), paged());
            by(rows::rotation(&qkv, (&cos, &sin), Slots { keys: &keys, values: &values, slots: &slots }, heads, &queries).unwrap());
            [queries, keys, values]
        };
        let of_host = written(&mut |op| host.run(&op));
        let of_cpu = written(&mut |op| op.run(&Device::Cpu).unwrap());
        for (of_host, of_cpu) in of_host.iter().zip(&of_cpu) {
            agree(of_host, of_cpu, tolerance(dtype))?;
        }
    }

    #[test]
    fn norms_and_gates(rows in 1..4usize, width in prop::sample::select(vec![1usize, 31, 64, 257, 576, 1000]), dtype in dtypes(), seed in any::<u64>()) {
        let Some(mut host) = host() else { return Ok(()) };
        let (x, more) = (numbers(&[rows, width], dtype, seed), numbers(&[rows, width], dtype, seed ^ 1));
        let (weight, gate_up) = (numbers(&[width], DType::F32, seed ^ 2), numbers(&[rows, 2 * width], dtype, seed ^ 3));
        let computed = |by: &mut dyn FnMut(Op<'_>)| {
            let out = [(); 4].map(|()| poisoned(&[rows, width], dtype));
            by(rows::norm(&x, &weight, 1e-5, &out[0]).unwrap());
            by(rows::sum_and_norm((&x, &more), &weight, 1e-5, (&out[1], &out[2])).unwrap());
            by(rows::gate(&gate_up, &out[3]).unwrap());
            out
        };
        let of_host = computed(&mut |op| host.run(&op));
        let of_cpu = computed(&mut |op| op.run(&Device::Cpu).unwrap());
        for (of_host, of_cpu) in of_host.iter().zip(&of_cpu) {
            agree(of_host, of_cpu, tolerance(dtype))?;
        }
    }

    /// Few different values, so that ties are common: the lowest id must win.
    #[test]
    fn readings(rows in 1..4usize, vocab in prop::sample::select(vec![1usize, 2, 40, 1023, 1024, 1025, 3000]), few in any::<bool>(), dtype in dtypes(), seed in any::<u64>()) {
        let Some(mut host) = host() else { return Ok(()) };
        let mut logits = numbers(&[rows, vocab], DType::F32, seed);
        if few {
            logits = logits.round().unwrap();
        }
        let logits = logits.to_dtype(dtype).unwrap();
        // A row without targets, one with two, and so on.
        let offsets: Vec<u32> = (0..=rows as u32).map(|row| row * row).collect();
        let count = (rows * rows).max(1);
        let targets: Vec<u32> = (0..count as u32).map(|at| at * 7919 % vocab as u32).collect();
        let asked = Asked {
            targets: Tensor::from_vec(targets, count, &Device::Cpu).unwrap(),
            offsets: Tensor::from_vec(offsets, rows + 1, &Device::Cpu).unwrap(),
        };
        let read = |by: &mut dyn FnMut(Op<'_>)| {
            let out = (poisoned(&[rows, 4], DType::F32), poisoned(&[count], DType::F32));
            by(logprobs::row_reading(&logits, &asked, &out.0, &out.1).unwrap());
            (out.0.to_vec2::<f32>().unwrap(), out.1.to_vec1::<f32>().unwrap())
        };
        let (of_host, of_cpu) = (read(&mut |op| host.run(&op)), read(&mut |op| op.run(&Device::Cpu).unwrap()));
        prop_assert_eq!(of_host.1, of_cpu.1);
        for (host, cpu) in of_host.0.iter().zip(&of_cpu.0) {
            prop_assert_eq!((host[0], host[1], host[3].to_bits()), (cpu[0], cpu[1], cpu[3].to_bits()));
            prop_assert!((host[2] - cpu[2]).abs() < 1e-5, "{} {}", host[2], cpu[2]);
        }
    }
}

/// A logit that is not a number is seen, wherever it stands.
#[test]
fn a_logit_that_is_not_a_number_is_seen() {
    let Some(mut host) = host() else { return };
    for at in [0usize, 5, 1030, 2999] {
        let mut row = values(&numbers(&[3000], DType::F32, 9));
        row[at] = f32::NAN;
        let logits = Tensor::from_vec(row, (1, 3000), &Device::Cpu).unwrap();
        let none = |len: usize| Tensor::zeros(len, DType::U32, &Device::Cpu).unwrap();
        let asked = Asked { targets: none(1), offsets: none(2) };
        let (read, of_targets) = (poisoned(&[1, 4], DType::F32), poisoned(&[1], DType::F32));
        host.run(&logprobs::row_reading(&logits, &asked, &read, &of_targets).unwrap());
        assert!(values(&read)[2].is_nan(), "at {at}");
        assert!(logprobs::logprob_rows(&logits, &[&[]]).unwrap()[0].largest.is_nan(), "at {at} on the CPU");
    }
}
