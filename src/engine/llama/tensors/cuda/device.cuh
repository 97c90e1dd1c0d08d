// What the kernels share: numbers, reductions, and the instructions of the PTX ISA that C++ has no name for. Each instruction stands behind a
// small function, so that a C++ compiler can take the same kernels with functions of its own (tests/cuda_on_host).
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using bf16 = __nv_bfloat16;
using f16 = __half;

// Shared memory whose size the launch says.
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#define KERNEL extern "C" __global__

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(f16 x) { return __half2float(x); }

template <class T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ f16 narrow<f16>(float x) { return __float2half_rn(x); }

__device__ __forceinline__ unsigned in_shared(const void *at) { return static_cast<unsigned>(__cvta_generic_to_shared(at)); }

// c += a b with a of 16 x 16, b of 16 x 8 and c of 16 x 8 numbers, spread over the lanes of a warp (PTX ISA, "mma.m16n8k16").
template <class T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

template <>
__device__ __forceinline__ void multiply_add<bf16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply_add<f16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of 16-bit numbers from shared memory. Lane 8i + j says where row j of matrix i begins (16 bytes, aligned); a lane gets two
// neighbours of row lane / 4 of each matrix (PTX ISA, "ldmatrix").
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(in_shared(row))
                 : "memory");
}

// The same with every matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(in_shared(row))
                 : "memory");
}

// 16 bytes from global to shared memory, both aligned, without waiting (PTX ISA, "cp.async").
__device__ __forceinline__ void copy_async(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(in_shared(to)), "l"(from) : "memory");
}

// Closes the group of this thread's copies.
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the newest OPEN groups of this thread's copies are there.
template <int OPEN> __device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory"); }

#else
#include "cuda_on_host.hpp"
#endif

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int LANES = 32;

// Two numbers in one register, the first in the lower half.
template <class T> __device__ __forceinline__ unsigned pack(float first, float second) {
    static_assert(sizeof(T) == 2, "two numbers of 16 bits");
    const T low = narrow<T>(first), high = narrow<T>(second);
    return *reinterpret_cast<const unsigned short *>(&low) | unsigned(*reinterpret_cast<const unsigned short *>(&high)) << 16;
}

// The sum over all threads of a block, given to all of them. `scratch` has a number for each warp.
__device__ __forceinline__ float block_sum(float x, float *scratch) {
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, lanes);
    }
    const int warps = blockDim.x / LANES;
    if (threadIdx.x % LANES == 0) {
        scratch[threadIdx.x / LANES] = x;
    }
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < warps; ++warp) {
        sum += scratch[warp];
    }
    __syncthreads();
    return sum;
}
