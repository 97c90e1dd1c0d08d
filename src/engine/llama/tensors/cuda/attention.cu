// Causal attention over pages of keys and values, for prompts and single new tokens alike.
//
// A step's queries are cut into tiles (fused/attention.rs). The rows of a tile are pairs of a token and a query head, all heads of the group that
// shares a key head: so a page is read once for the whole group. A block goes over the pages of its tile with an online softmax in f32. Where a
// tile's pages are split, each block leaves its sums, and `merge_*` puts them together.
//
// Keys and values: [page][PAGE][key heads][DIM]. Queries and results: [token][query heads][DIM].
#include "device.cuh"

// Tokens of a page: kv.rs.
constexpr int PAGE = 32;

// Work of a block, for one key head. Laid out as the host writes it.
struct Tile {
    // Row of the step where its segment begins, and that row's position.
    unsigned row, position;
    // Its rows among the segment's (token, head of the group).
    unsigned first, count;
    // Its pages: where the segment's begin in the table, and which of them.
    unsigned table, begin, end;
    // First of its rows among the sums that are merged; WHOLE where it has all pages and the result can be written.
    unsigned sums;
};
constexpr unsigned WHOLE = 0xffffffffu;

// A query row whose pages were split.
struct Merge {
    // Token's row of the step, head of the group.
    unsigned row, head;
    // Its sums: the first, how many, how far apart.
    unsigned first, parts, stride;
};

// Where the numbers of a step lie.
template <class T> struct Step {
    const T *queries, *keys, *values;
    const Tile *tiles;
    const unsigned *table;
    T *out;
    // [row of sums][key head][DIM], and for each the largest score and the sum of weights.
    float *sums, *weights;
    unsigned query_heads, key_heads;
    // Makes of a product the exponent of 2 that it is a score for: 1 / (sqrt(DIM) ln 2).
    float scale;
};

// A row of a tile.
struct Row {
    bool valid;
    // Where its numbers begin, in units of DIM.
    unsigned at;
    // Tokens it sees.
    int seen;
};

template <class T> __device__ __forceinline__ Row row_of(const Step<T> &step, const Tile &tile, unsigned row) {
    const unsigned group = step.query_heads / step.key_heads, at = tile.first + row, token = at / group;
    const bool valid = row < tile.count;
    const unsigned head = (tile.row + token) * step.query_heads + blockIdx.y * group + at % group;
    return Row{valid, head, valid ? int(tile.position + token) + 1 : 0};
}

// Number of a page's token in keys or values, of this block's key head.
template <class T, int DIM> __device__ __forceinline__ size_t token_at(const Step<T> &step, unsigned page, int token) {
    return ((size_t(page) * PAGE + token) * step.key_heads + blockIdx.y) * DIM;
}

// What is left of a sum when a larger score was found; a row that has seen nothing has no largest score.
__device__ __forceinline__ float rescale(float before, float after) { return before == -INFINITY ? 0.0f : exp2f(before - after); }
__device__ __forceinline__ float weight(float score, float largest) { return score == -INFINITY ? 0.0f : exp2f(score - largest); }

// Tensor cores: bf16 and f16. Each warp has 16 rows of the tile, and all of a page.
template <class T, int DIM, int WARPS> struct Attention {
    // Eight numbers more than a row has: rows of a matrix then begin in different banks.
    static constexpr int STRIDE = DIM + 8, CHUNK = 16 / sizeof(T);
    static constexpr int STEPS = DIM / 16, KEYS = PAGE / 8, COLUMNS = DIM / 8;

    const Step<T> &step;
    const Tile tile;
    // [stage][keys, values][PAGE][STRIDE].
    T *pages;
    unsigned queries[STEPS][4];
    float sums[COLUMNS][4], largest[2], total[2];
    // The two rows of this lane: lane / 4 and lane / 4 + 8 of the warp's.
    Row rows[2];

    __device__ Attention(const Step<T> &step, T *shared) : step(step), tile(step.tiles[blockIdx.x]), pages(shared) {}

    __device__ T *stage(int stage, int which) { return pages + (stage * 2 + which) * PAGE * STRIDE; }

    __device__ void fetch(unsigned at, int to) {
        const unsigned page = step.table[tile.table + at];
        for (int chunk = threadIdx.x; chunk < PAGE * DIM / CHUNK; chunk += WARPS * LANES) {
            const int token = chunk / (DIM / CHUNK), column = chunk % (DIM / CHUNK) * CHUNK;
            const size_t from = token_at<T, DIM>(step, page, token) + column;
            copy_async(stage(to, 0) + token * STRIDE + column, step.keys + from);
            copy_async(stage(to, 1) + token * STRIDE + column, step.values + from);
        }
        close_copies();
    }

    __device__ void begin() {
        const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
        for (int half = 0; half < 2; ++half) {
            rows[half] = row_of(step, tile, warp * 16 + half * 8 + lane / 4);
            largest[half] = -INFINITY;
            total[half] = 0.0f;
        }
#pragma unroll
        for (int k = 0; k < STEPS; ++k) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const Row &row = rows[part % 2];
                const T *from = step.queries + size_t(row.at) * DIM + k * 16 + part / 2 * 8 + lane % 4 * 2;
                queries[k][part] = row.valid ? *reinterpret_cast<const unsigned *>(from) : 0u;
            }
        }
#pragma unroll
        for (int column = 0; column < COLUMNS; ++column) {
            sums[column][0] = sums[column][1] = sums[column][2] = sums[column][3] = 0.0f;
        }
    }

    // Scores of a page: of eight keys each, two numbers for each of the lane's rows.
    __device__ void score(const T *keys, unsigned at, float (&scores)[KEYS][4]) {
        const int lane = threadIdx.x % LANES;
#pragma unroll
        for (int n = 0; n < KEYS; ++n) {
            scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0.0f;
#pragma unroll
            for (int k = 0; k < STEPS; k += 2) {
                unsigned b[4];
                load_matrices(b, keys + (n * 8 + lane % 8) * STRIDE + k * 16 + lane / 8 * 8);
                multiply_add<T>(scores[n], queries[k], b[0], b[1]);
                multiply_add<T>(scores[n], queries[k + 1], b[2], b[3]);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int token = int(at) * PAGE + n * 8 + lane % 4 * 2 + i % 2;
                scores[n][i] = token < rows[i / 2].seen ? scores[n][i] * step.scale : -INFINITY;
            }
        }
    }

    // Turns scores into weights, and scales what was summed up to the new largest score.
    __device__ void soften(float (&scores)[KEYS][4]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = largest[half];
#pragma unroll
            for (int n = 0; n < KEYS; ++n) {
                most = fmaxf(most, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
            }
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
            const float left = rescale(largest[half], most);
            largest[half] = most;
            total[half] *= left;
#pragma unroll
            for (int n = 0; n < KEYS; ++n) {
#pragma unroll
                for (int i = half * 2; i < half * 2 + 2; ++i) {
                    scores[n][i] = weight(scores[n][i], most);
                    total[half] += scores[n][i];
                }
            }
#pragma unroll
            for (int column = 0; column < COLUMNS; ++column) {
                sums[column][half * 2] *= left;
                sums[column][half * 2 + 1] *= left;
            }
        }
    }

    // Adds a page's values with their weights. The weights of a product are the right-hand side's rows: two eights of keys make a step of 16.
    __device__ void gather(const T *values, const float (&weights)[KEYS][4]) {
        const int lane = threadIdx.x % LANES, matrix = lane / 8;
#pragma unroll
        for (int k = 0; k < PAGE / 16; ++k) {
            const unsigned a[4] = {pack<T>(weights[2 * k][0], weights[2 * k][1]), pack<T>(weights[2 * k][2], weights[2 * k][3]),
                                   pack<T>(weights[2 * k + 1][0], weights[2 * k + 1][1]),
                                   pack<T>(weights[2 * k + 1][2], weights[2 * k + 1][3])};
#pragma unroll
            for (int column = 0; column < COLUMNS; column += 2) {
                unsigned b[4];
                load_matrices_transposed(b, values + (k * 16 + matrix % 2 * 8 + lane % 8) * STRIDE + (column + matrix / 2) * 8);
                multiply_add<T>(sums[column], a, b[0], b[1]);
                multiply_add<T>(sums[column + 1], a, b[2], b[3]);
            }
        }
    }

    __device__ void finish() {
        const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            total[half] += __shfl_xor_sync(ALL_LANES, total[half], 1);
            total[half] += __shfl_xor_sync(ALL_LANES, total[half], 2);
            if (!rows[half].valid) {
                continue;
            }
            const size_t part = size_t(tile.sums + warp * 16 + half * 8 + lane / 4) * step.key_heads + blockIdx.y;
#pragma unroll
            for (int column = 0; column < COLUMNS; ++column) {
                const int at = column * 8 + lane % 4 * 2;
                const float first = sums[column][half * 2], second = sums[column][half * 2 + 1];
                if (tile.sums == WHOLE) {
                    *reinterpret_cast<unsigned *>(step.out + size_t(rows[half].at) * DIM + at) = pack<T>(first / total[half], second / total[half]);
                } else {
                    step.sums[part * DIM + at] = first;
                    step.sums[part * DIM + at + 1] = second;
                }
            }
            if (tile.sums != WHOLE && lane % 4 == 0) {
                step.weights[part * 2] = largest[half];
                step.weights[part * 2 + 1] = total[half];
            }
        }
    }

    __device__ void run() {
        fetch(tile.begin, 0);
        begin();
        for (unsigned at = tile.begin; at < tile.end; ++at) {
            const int now = (at - tile.begin) % 2;
            if (at + 1 < tile.end) {
                fetch(at + 1, 1 - now);
                wait_for_copies<1>();
            } else {
                wait_for_copies<0>();
            }
            __syncthreads();
            // A warp without a row only fetches.
            if (threadIdx.x / LANES * 16 < tile.count) {
                float scores[KEYS][4];
                score(stage(now, 0), at, scores);
                soften(scores);
                gather(stage(now, 1), scores);
            }
            __syncthreads();
        }
        finish();
    }
};

// f32 without tensor cores, which would round to TF32: 16 rows, eight lanes each.
template <int DIM> struct Attention<float, DIM, 4> {
    static constexpr int ROWS = 16, PARTS = 8, STRIDE = DIM + 4, WEIGHTS = PAGE + 1;
    // Queries, keys, values, weights.
    static constexpr int NUMBERS = (ROWS + 2 * PAGE) * STRIDE + ROWS * WEIGHTS;

    const Step<float> &step;
    const Tile tile;
    float *shared;
    Row row;
    float sums[DIM / PARTS], largest, total;

    __device__ Attention(const Step<float> &step, float *shared) : step(step), tile(step.tiles[blockIdx.x]), shared(shared) {}

    __device__ void fetch(unsigned at) {
        float *keys = shared + ROWS * STRIDE, *values = keys + PAGE * STRIDE;
        const unsigned page = step.table[tile.table + at];
        for (int i = threadIdx.x; i < PAGE * DIM; i += blockDim.x) {
            const size_t from = token_at<float, DIM>(step, page, i / DIM) + i % DIM;
            keys[i / DIM * STRIDE + i % DIM] = step.keys[from];
            values[i / DIM * STRIDE + i % DIM] = step.values[from];
        }
    }

    __device__ void begin() {
        row = row_of(step, tile, threadIdx.x / PARTS);
        largest = -INFINITY;
        total = 0.0f;
        float *query = shared + threadIdx.x / PARTS * STRIDE;
#pragma unroll
        for (int i = 0; i < DIM / PARTS; ++i) {
            const int column = threadIdx.x % PARTS + i * PARTS;
            query[column] = row.valid ? step.queries[size_t(row.at) * DIM + column] : 0.0f;
            sums[i] = 0.0f;
        }
    }

    __device__ void add(unsigned at) {
        const float *query = shared + threadIdx.x / PARTS * STRIDE, *keys = shared + ROWS * STRIDE, *values = keys + PAGE * STRIDE;
        float *weights = shared + (ROWS + 2 * PAGE) * STRIDE + threadIdx.x / PARTS * WEIGHTS;
        float scores[PAGE / PARTS], most = largest;
#pragma unroll
        for (int j = 0; j < PAGE / PARTS; ++j) {
            const int token = threadIdx.x % PARTS + j * PARTS;
            float product = 0.0f;
            for (int i = 0; i < DIM; ++i) {
                product = fmaf(query[i], keys[token * STRIDE + i], product);
            }
            scores[j] = int(at) * PAGE + token < row.seen ? product * step.scale : -INFINITY;
            most = fmaxf(most, scores[j]);
        }
        for (int lanes = PARTS / 2; lanes > 0; lanes /= 2) {
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, lanes));
        }
        const float left = rescale(largest, most);
        largest = most;
        total *= left;
#pragma unroll
        for (int j = 0; j < PAGE / PARTS; ++j) {
            const float of_token = weight(scores[j], most);
            total += of_token;
            weights[threadIdx.x % PARTS + j * PARTS] = of_token;
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < DIM / PARTS; ++i) {
            float sum = sums[i] * left;
            for (int token = 0; token < PAGE; ++token) {
                sum = fmaf(weights[token], values[token * STRIDE + threadIdx.x % PARTS + i * PARTS], sum);
            }
            sums[i] = sum;
        }
    }

    __device__ void finish() {
        for (int lanes = PARTS / 2; lanes > 0; lanes /= 2) {
            total += __shfl_xor_sync(ALL_LANES, total, lanes);
        }
        if (!row.valid) {
            return;
        }
        const size_t part = size_t(tile.sums + threadIdx.x / PARTS) * step.key_heads + blockIdx.y;
#pragma unroll
        for (int i = 0; i < DIM / PARTS; ++i) {
            const int column = threadIdx.x % PARTS + i * PARTS;
            if (tile.sums == WHOLE) {
                step.out[size_t(row.at) * DIM + column] = sums[i] / total;
            } else {
                step.sums[part * DIM + column] = sums[i];
            }
        }
        if (tile.sums != WHOLE && threadIdx.x % PARTS == 0) {
            step.weights[part * 2] = largest;
            step.weights[part * 2 + 1] = total;
        }
    }

    __device__ void run() {
        begin();
        for (unsigned at = tile.begin; at < tile.end; ++at) {
            fetch(at);
            __syncthreads();
            add(at);
            __syncthreads();
        }
        finish();
    }
};

// Puts the sums of one query row and key head together. As many threads as DIM.
template <class T> __device__ void merge(const Merge *merges, const float *sums, const float *weights, T *out, unsigned query_heads, unsigned key_heads) {
    const Merge row = merges[blockIdx.x];
    float largest = -INFINITY;
    for (unsigned part = 0; part < row.parts; ++part) {
        largest = fmaxf(largest, weights[(size_t(row.first + part * row.stride) * key_heads + blockIdx.y) * 2]);
    }
    float sum = 0.0f, total = 0.0f;
    for (unsigned part = 0; part < row.parts; ++part) {
        const size_t at = size_t(row.first + part * row.stride) * key_heads + blockIdx.y;
        const float left = rescale(weights[at * 2], largest);
        sum += left * sums[at * blockDim.x + threadIdx.x];
        total += left * weights[at * 2 + 1];
    }
    const unsigned group = query_heads / key_heads;
    const size_t head = size_t(row.row) * query_heads + blockIdx.y * group + row.head;
    out[head * blockDim.x + threadIdx.x] = narrow<T>(sum / total);
}

// Three blocks of four warps find room on a multiprocessor, so that some compute while others wait.
#define ATTENTION(name, T, DIM, WARPS)                                                                                                         \
    KERNEL void __launch_bounds__(WARPS * LANES, WARPS == 4 ? 3 : 1)                                                                           \
        name(const T *queries, const T *keys, const T *values, const Tile *tiles, const unsigned *table, T *out, float *sums, float *weights,  \
             unsigned query_heads, unsigned key_heads, float scale) {                                                                          \
        SHARED_MEMORY(shared);                                                                                                                 \
        const Step<T> step{queries, keys, values, tiles, table, out, sums, weights, query_heads, key_heads, scale};                            \
        Attention<T, DIM, WARPS> attention(step, reinterpret_cast<T *>(shared));                                                             \
        attention.run();                                                                                                                       \
    }

#define MERGE(name, T)                                                                                                                         \
    KERNEL void name(const Merge *merges, const float *sums, const float *weights, T *out, unsigned query_heads, unsigned key_heads) {         \
        merge<T>(merges, sums, weights, out, query_heads, key_heads);                                                                          \
    }

ATTENTION(attention_bf16_32_1, bf16, 32, 1)
ATTENTION(attention_bf16_64_1, bf16, 64, 1)
ATTENTION(attention_bf16_128_1, bf16, 128, 1)
ATTENTION(attention_bf16_32_4, bf16, 32, 4)
ATTENTION(attention_bf16_64_4, bf16, 64, 4)
ATTENTION(attention_bf16_128_4, bf16, 128, 4)
ATTENTION(attention_f16_32_1, f16, 32, 1)
ATTENTION(attention_f16_64_1, f16, 64, 1)
ATTENTION(attention_f16_128_1, f16, 128, 1)
ATTENTION(attention_f16_32_4, f16, 32, 4)
ATTENTION(attention_f16_64_4, f16, 64, 4)
ATTENTION(attention_f16_128_4, f16, 128, 4)
ATTENTION(attention_f32_32_4, float, 32, 4)
ATTENTION(attention_f32_64_4, float, 64, 4)
ATTENTION(attention_f32_128_4, float, 128, 4)
MERGE(merge_bf16, bf16)
MERGE(merge_f16, f16)
MERGE(merge_f32, float)
