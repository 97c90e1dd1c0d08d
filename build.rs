//! Compiles this program's CUDA kernels (`src/engine/llama/tensors/cuda`) to PTX where the feature `cuda` is on, as the tensor library does with its
//! own (docs/cuda.md). Without the feature it does nothing.

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}

/// PTX for compute capability 8.0 and all later ones unless `CUDA_COMPUTE_CAP` names another.
#[cfg(feature = "cuda")]
fn main() -> Result<(), cudaforge::Error> {
    const FOLDER: &str = "src/engine/llama/tensors/cuda";
    let kernels = cudaforge::KernelBuilder::new().source_dir(FOLDER).watch([format!("{FOLDER}/device.cuh")]).arg("-std=c++17").arg("-O3");
    let kernels = if std::env::var_os("CUDA_COMPUTE_CAP").is_some() { kernels } else { kernels.compute_cap(80) };
    kernels.build_ptx().map(drop)
}
