#!/usr/bin/env bash
# usage: scripts/build_cuda.sh FOLDER [CARGO-ARGUMENT...]
#
# Builds swallow-eval with the feature `cuda`, with `--features nccl` behind FOLDER also for one model over several GPUs, on a machine that
# needs neither a GPU nor a driver nor a CUDA toolkit (docs/cuda.md). Takes nvcc and its headers from NVIDIA's wheels on PyPI into FOLDER
# (about 500 MB unpacked; kept for the next time), links against stand-ins (scripts/cuda_lazy.py) instead of CUDA's libraries, and checks
# that the program needs none of them to start. x86-64 Linux, glibc.
#
# Whoever downloads the wheels accepts NVIDIA's licence of the CUDA toolkit.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "build_cuda.sh: the stand-ins are written for Linux on x86-64, not $(uname -sm)" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# CUDA 13.0: the driver compiles PTX of its own version and of older ones.
wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85 nvidia-curand==10.4.0.35)
toolkit=$folder/toolkit/nvidia/cu13
if [ ! -e "$folder/toolkit/complete" ]; then
    python3 -m pip download --quiet --no-deps --dest "$folder/wheels" "${wheels[@]}"
    for wheel in "$folder"/wheels/*.whl; do
        python3 -m zipfile -e "$wheel" "$folder/toolkit"
    done
    # Unpacking drops the mode bits.
    chmod +x "$toolkit"/bin/* "$toolkit"/nvvm/bin/*
    [ ! -d "$toolkit/bin/crt" ] || chmod +x "$toolkit"/bin/crt/*
    touch "$folder/toolkit/complete"
fi

cudarc=$(cargo metadata --format-version 1 --locked --features cuda |
    python3 -c 'import json, sys, os; print(*(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"))')
python3 scripts/cuda_lazy.py "$cudarc" "$folder/lazy"
# The runtime's own static library opens the driver by itself; it stands in under the name that is asked for.
cp "$toolkit/lib/libcudart_static.a" "$folder/lazy/libcudart.a"

export CUDA_HOME=$toolkit CUDA_PATH=$toolkit PATH=$toolkit/bin:$PATH
# PTX for compute capability 8.0 (A100) and all later ones: the driver compiles it at the first start. CUDA_COMPUTE_CAP=90 is for Hopper alone.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80} CUDARC_CUDA_VERSION=13000
export RUSTFLAGS="-L native=$folder/lazy ${RUSTFLAGS:-}"
cargo build --release --locked --features cuda "$@"

program=${CARGO_TARGET_DIR:-target}/release/swallow-eval
[ -x "$program" ] || exit 0
needed=$(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
echo "$program needs:" $needed
if grep -Eq 'cuda|cublas|curand|nvrtc|nccl' <<<"$needed"; then
    echo "build_cuda.sh: a CUDA library is among them: the program does not start without it" >&2
    exit 1
fi
