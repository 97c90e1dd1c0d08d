// Kernels over the rows of a step: rotary embedding with the write into pages, norms, the gate of the feed-forward layer, and what is read off
// rows of logits. A block a row. Arithmetic is in f32, and each result is rounded once.
#include "device.cuh"

// Splits a row of [query heads + 2 key heads][dim] into queries (rotated), keys (rotated) and values; the last two go to the row's slot, in
// [slot][key heads][dim]. The halves of a head are rotated against each other. cos, sin: [row][dim / 2].
template <class T>
__device__ void rotate_and_write(const T *qkv, const T *cos, const T *sin, const unsigned *slots, T *queries, T *keys, T *values,
                                 unsigned query_heads, unsigned key_heads, unsigned dim) {
    const unsigned half = dim / 2, heads = query_heads + 2 * key_heads;
    const size_t row = blockIdx.x, slot = slots[blockIdx.x];
    for (unsigned i = threadIdx.x; i < heads * half; i += blockDim.x) {
        const unsigned head = i / half, at = i % half;
        const T *from = qkv + (row * heads + head) * dim + at;
        const float low = widen(from[0]), high = widen(from[half]);
        if (head >= query_heads + key_heads) {
            T *to = values + (slot * key_heads + head - query_heads - key_heads) * dim + at;
            to[0] = from[0];
            to[half] = from[half];
            continue;
        }
        T *to = head < query_heads ? queries + (row * query_heads + head) * dim : keys + (slot * key_heads + head - query_heads) * dim;
        const float c = widen(cos[row * half + at]), s = widen(sin[row * half + at]);
        to[at] = narrow<T>(low * c - high * s);
        to[at + half] = narrow<T>(high * c + low * s);
    }
}

// sum = x + more, rounded; normed = sum / rms(sum) * weight.
template <class T>
__device__ void add_rms_norm(const T *x, const T *more, const float *weight, T *sum, T *normed, unsigned width, float epsilon) {
    SHARED_MEMORY(shared);
    const size_t row = size_t(blockIdx.x) * width;
    float squares = 0.0f;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        const T added = narrow<T>(widen(x[row + i]) + widen(more[row + i]));
        sum[row + i] = added;
        squares = fmaf(widen(added), widen(added), squares);
    }
    // Each thread reads back only what it wrote itself.
    const float scale = 1.0f / sqrtf(block_sum(squares, reinterpret_cast<float *>(shared)) / width + epsilon);
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        normed[row + i] = narrow<T>(widen(sum[row + i]) * scale * weight[i]);
    }
}

// normed = x / rms(x) * weight.
template <class T> __device__ void rms_norm(const T *x, const float *weight, T *normed, unsigned width, float epsilon) {
    SHARED_MEMORY(shared);
    const size_t row = size_t(blockIdx.x) * width;
    float squares = 0.0f;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        squares = fmaf(widen(x[row + i]), widen(x[row + i]), squares);
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, reinterpret_cast<float *>(shared)) / width + epsilon);
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        normed[row + i] = narrow<T>(widen(x[row + i]) * scale * weight[i]);
    }
}

// silu(gate) * up of rows [gate][up], each `width` wide.
template <class T> __device__ void silu_mul(const T *gate_up, T *out, unsigned width) {
    const T *gate = gate_up + size_t(blockIdx.x) * 2 * width;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        const float g = widen(gate[i]);
        out[size_t(blockIdx.x) * width + i] = narrow<T>(g / (1.0f + expf(-g)) * widen(gate[width + i]));
    }
}

// Of some logits: the largest and where it stands (the lowest id wins a tie), the second, and the sum of exp(logit - largest).
struct Seen {
    float largest, second, sum;
    unsigned at;
};

__device__ __forceinline__ void see(Seen &seen, float logit, unsigned at) {
    if (logit > seen.largest) {
        seen = Seen{logit, seen.largest, seen.sum * expf(seen.largest - logit) + 1.0f, at};
        return;
    }
    // What is not a number makes the sum none.
    seen.sum += logit == -INFINITY ? 0.0f : expf(logit - seen.largest);
    seen.second = logit > seen.second ? logit : seen.second;
}

__device__ __forceinline__ Seen both(Seen a, Seen b) {
    const bool swap = b.largest > a.largest || (b.largest == a.largest && b.at < a.at);
    const Seen more = swap ? b : a, less = swap ? a : b;
    const float sum = less.largest == -INFINITY ? less.sum : less.sum * expf(less.largest - more.largest);
    return Seen{more.largest, fmaxf(more.second, less.largest), more.sum + sum, more.at};
}

// read: [row][largest, largest less second, log of the sum of exp(logit - largest), id of the largest (as its bits)];
// of_targets: the logits of targets[offsets[row] .. offsets[row + 1]].
template <class T>
__device__ void logprob_rows(const T *logits, const unsigned *targets, const unsigned *offsets, float *read, float *of_targets, unsigned width) {
    SHARED_MEMORY(shared);
    const T *row = logits + size_t(blockIdx.x) * width;
    Seen seen{-INFINITY, -INFINITY, 0.0f, ALL_LANES};
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        see(seen, widen(row[i]), i);
    }
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2) {
        const Seen other{__shfl_xor_sync(ALL_LANES, seen.largest, lanes), __shfl_xor_sync(ALL_LANES, seen.second, lanes),
                         __shfl_xor_sync(ALL_LANES, seen.sum, lanes), __shfl_xor_sync(ALL_LANES, seen.at, lanes)};
        seen = both(seen, other);
    }
    Seen *warps = reinterpret_cast<Seen *>(shared);
    if (threadIdx.x % LANES == 0) {
        warps[threadIdx.x / LANES] = seen;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned warp = 1; warp < blockDim.x / LANES; ++warp) {
            seen = both(seen, warps[warp]);
        }
        float *to = read + size_t(blockIdx.x) * 4;
        to[0] = seen.largest;
        to[1] = seen.largest - seen.second;
        to[2] = logf(seen.sum);
        *reinterpret_cast<unsigned *>(to + 3) = seen.at;
    }
    for (unsigned i = offsets[blockIdx.x] + threadIdx.x; i < offsets[blockIdx.x + 1]; i += blockDim.x) {
        of_targets[i] = widen(row[targets[i]]);
    }
}

#define KERNELS_OF(T, suffix)                                                                                                                  \
    KERNEL void rotate_and_write_##suffix(const T *qkv, const T *cos, const T *sin, const unsigned *slots, T *queries, T *keys, T *values,     \
                                          unsigned query_heads, unsigned key_heads, unsigned dim) {                                            \
        rotate_and_write<T>(qkv, cos, sin, slots, queries, keys, values, query_heads, key_heads, dim);                                         \
    }                                                                                                                                          \
    KERNEL void add_rms_norm_##suffix(const T *x, const T *more, const float *weight, T *sum, T *normed, unsigned width, float epsilon) {      \
        add_rms_norm<T>(x, more, weight, sum, normed, width, epsilon);                                                                         \
    }                                                                                                                                          \
    KERNEL void rms_norm_##suffix(const T *x, const float *weight, T *normed, unsigned width, float epsilon) {                                 \
        rms_norm<T>(x, weight, normed, width, epsilon);                                                                                        \
    }                                                                                                                                          \
    KERNEL void silu_mul_##suffix(const T *gate_up, T *out, unsigned width) { silu_mul<T>(gate_up, out, width); }                              \
    KERNEL void logprob_rows_##suffix(const T *logits, const unsigned *targets, const unsigned *offsets, float *read, float *of_targets,       \
                                      unsigned width) {                                                                                        \
        logprob_rows<T>(logits, targets, offsets, read, of_targets, width);                                                                    \
    }

KERNELS_OF(float, f32)
KERNELS_OF(bf16, bf16)
KERNELS_OF(f16, f16)
