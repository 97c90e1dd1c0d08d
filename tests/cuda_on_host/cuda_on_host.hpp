// What a CUDA kernel needs, on the CPU: a C++ compiler takes the .cu files of src/engine/llama/tensors/cuda with this header and runs a grid, so
// that their arithmetic, indices and synchronisation can be tested on a machine without a GPU. Every thread of a block is a fibre; a fibre goes on
// until it must wait for its warp or its block, and a warp goes as far ahead of the others as it can. Shared memory is poisoned for each block.
// Copies that a GPU makes later are made when they are waited for, or at once. Instructions on fragments follow the layouts of NVIDIA's PTX ISA. It
// says nothing about speed, nor about races that the two orders of threads which are tried (forwards, backwards) do not show.
#pragma once

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <utility>
#include <vector>

#define KERNEL static
#define SHARED_MEMORY(name) unsigned char *name = host::shared_memory
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct Index {
    unsigned x = 0, y = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 64 << 10;

inline unsigned char *shared_memory = nullptr;
inline const char *kernel = "";

[[noreturn]] inline void fail(const char *why) {
    std::fprintf(stderr, "%s, block (%u, %u), thread %u: %s\n", kernel, blockIdx.x, blockIdx.y, threadIdx.x, why);
    std::_Exit(3);
}

// A meeting of some threads: whoever comes waits until all have come.
struct Meeting {
    unsigned members = 0, come = 0, round = 0;
};

struct Copy {
    void *to;
    const void *from;
};

struct Fibre {
    unsigned thread = 0;
    bool started = false, done = false;
    // What it waits for, and the round that must be over.
    Meeting *waits = nullptr;
    unsigned round = 0;
    ucontext_t context;
    jmp_buf jump;
    // Copies in groups; the last one is open.
    std::vector<std::vector<Copy>> copies;
};

// What the lanes of a warp show each other, twice: a lane that is one step ahead must not overwrite what others still read.
struct Warp {
    Meeting meeting;
    unsigned char shown[2][WARP][64];
};

inline std::vector<Fibre> fibres;
inline std::vector<Warp> warps;
inline std::vector<unsigned> steps;
inline Meeting block;
inline Fibre *current = nullptr;
// Whether copies arrive at once, or when they are waited for: a GPU may do either.
inline bool copies_at_once = false;
inline jmp_buf scheduler;
inline const std::function<void()> *body = nullptr;

inline void wait(Meeting &meeting) {
    if (++meeting.come == meeting.members) {
        meeting.come = 0;
        ++meeting.round;
        return;
    }
    current->waits = &meeting;
    current->round = meeting.round;
    if (_setjmp(current->jump) == 0) {
        _longjmp(scheduler, 1);
    }
}

inline void enter() {
    (*body)();
    current->done = true;
    if (current->copies.size() > 1 || !current->copies.back().empty()) {
        fail("it ends before its copies have come");
    }
    _longjmp(scheduler, 1);
}

__attribute__((noinline)) inline void resume(Fibre &fibre) {
    current = &fibre;
    threadIdx.x = fibre.thread;
    if (_setjmp(scheduler) == 0) {
        if (fibre.started) {
            _longjmp(fibre.jump, 1);
        }
        fibre.started = true;
        setcontext(&fibre.context);
    }
}

// Runs a warp as far ahead of the others as it can go. Gives whether it went at all; takes the threads that ended off `left`.
inline bool run_warp(unsigned warp, bool backwards, unsigned &left) {
    bool moved = false;
    for (bool again = true; again; moved |= again) {
        again = false;
        for (unsigned lane = 0; lane < WARP; ++lane) {
            Fibre &fibre = fibres[warp * WARP + (backwards ? WARP - 1 - lane : lane)];
            if (fibre.done || (fibre.waits && fibre.waits->round == fibre.round)) {
                continue;
            }
            fibre.waits = nullptr;
            resume(fibre);
            again = true;
            left -= fibre.done;
        }
    }
    return moved;
}

inline void run_block(bool backwards) {
    const unsigned threads = blockDim.x;
    block = Meeting{threads, 0, 0};
    for (unsigned i = 0; i < threads / WARP; ++i) {
        warps[i].meeting = Meeting{WARP, 0, 0};
    }
    for (unsigned i = 0; i < threads; ++i) {
        Fibre &fibre = fibres[i];
        fibre.thread = i;
        fibre.started = fibre.done = false;
        fibre.waits = nullptr;
        fibre.copies.assign(1, {});
        steps[i] = 0;
        makecontext(&fibre.context, enter, 0);
    }
    for (unsigned left = threads; left > 0;) {
        bool moved = false;
        for (unsigned i = 0; i < threads / WARP; ++i) {
            moved |= run_warp(backwards ? threads / WARP - 1 - i : i, backwards, left);
        }
        if (!moved) {
            fail("threads wait for others that have ended or wait elsewhere");
        }
    }
}

// Memory between two pages that nobody may touch, at the end of the room between them or at its beginning.
class Guarded {
    unsigned char *whole;
    size_t room;

  public:
    unsigned char *at;
    Guarded(size_t bytes, bool at_end) {
        const size_t page = sysconf(_SC_PAGESIZE);
        room = (bytes + page - 1) / page * page;
        whole = static_cast<unsigned char *>(mmap(nullptr, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (whole == MAP_FAILED || (room > 0 && mprotect(whole + page, room, PROT_READ | PROT_WRITE) != 0)) {
            fail("no memory");
        }
        at = whole + page + (at_end ? room - bytes : 0);
    }
    Guarded(const Guarded &) = delete;
    ~Guarded() { munmap(whole, room + 2 * sysconf(_SC_PAGESIZE)); }
};

inline void run_grid(Index grid, unsigned threads, size_t shared_bytes, bool backwards, const std::function<void()> &kernel_body) {
    if (threads % WARP != 0) {
        fail("a block is not made of whole warps");
    }
    static std::vector<unsigned char> stacks;
    stacks.resize(threads * STACK);
    fibres = std::vector<Fibre>(threads);
    warps.resize(threads / WARP);
    steps.resize(threads);
    for (unsigned i = 0; i < threads; ++i) {
        getcontext(&fibres[i].context);
        fibres[i].context.uc_stack.ss_sp = stacks.data() + i * STACK;
        fibres[i].context.uc_stack.ss_size = STACK;
    }
    const Guarded shared((shared_bytes + 15) / 16 * 16, true);
    shared_memory = shared.at;
    body = &kernel_body;
    copies_at_once = backwards;
    blockDim.x = threads;
    gridDim = grid;
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
            // Not a number in every type.
            std::memset(shared_memory, 0xff, shared_bytes);
            run_block(backwards);
        }
    }
}

// Shows a value to the warp; gives back where that of each lane lies.
template <class T> inline const unsigned char (*show(const T &value))[64] {
    static_assert(sizeof(T) <= 64);
    Warp &warp = warps[current->thread / WARP];
    auto *shown = warp.shown[steps[current->thread]++ % 2];
    std::memcpy(shown[current->thread % WARP], &value, sizeof value);
    wait(warp.meeting);
    return shown;
}

template <class T> inline T shown_by(const unsigned char (*shown)[64], unsigned lane) {
    T value;
    std::memcpy(&value, shown[lane], sizeof value);
    return value;
}

} // namespace host

inline void __syncthreads() { host::wait(host::block); }
inline void __syncwarp() { host::wait(host::warps[host::current->thread / host::WARP].meeting); }

template <class T> inline T __shfl_xor_sync(unsigned, T value, int lanes) {
    return host::shown_by<T>(host::show(value), (threadIdx.x % host::WARP) ^ unsigned(lanes));
}

// Types of 16 bits.
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

inline float from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline float widen(float x) { return x; }
inline float widen(bf16 x) { return from_bits(uint32_t(x.bits) << 16); }
inline float widen(f16 x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
    const float size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(float(mantissa), -24)
                                       : std::ldexp(float(mantissa + 1024), int(exponent) - 25);
    return sign ? -size : size;
}

template <class T> inline T narrow(float x);
template <> inline float narrow<float>(float x) { return x; }
template <> inline bf16 narrow<bf16>(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (std::isnan(x)) {
        return bf16{0x7fff};
    }
    return bf16{uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <> inline f16 narrow<f16>(float x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (std::isnan(x)) {
        return f16{0x7fff};
    }
    // Halfway between the largest number and the next one rounds up, to infinity.
    if (size >= 65520.0f) {
        return f16{uint16_t(sign | 0x7c00)};
    }
    if (size == 0.0f) {
        return f16{sign};
    }
    int exponent = 0;
    std::frexp(size, &exponent);
    // Steps between neighbours: 2^(exponent - 11), never below 2^-24. The default rounding is to the nearest, halves to the even one.
    const int step = std::max(exponent - 11, -24);
    const long steps = std::lrint(std::ldexp(size, -step));
    return f16{uint16_t(sign | (steps + (step > -24 ? long(step + 24) << 10 : 0)))};
}

// Instructions.
template <class T> inline void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct Fragments {
        T a[8], b[4];
    } mine;
    std::memcpy(mine.a, a, sizeof mine.a);
    std::memcpy(mine.b, &b0, 4);
    std::memcpy(mine.b + 2, &b1, 4);
    const auto *shown = host::show(mine);
    const unsigned lane = threadIdx.x % host::WARP;
    for (unsigned i = 0; i < 4; ++i) {
        // c: row lane / 4 (eight further for the last two), columns lane % 4 * 2 and the next.
        const unsigned row = lane / 4, lower = i / 2, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; ++k) {
            // a: numbers 0, 1: row lane / 4, columns lane % 4 * 2 and the next; 2, 3: eight rows further; 4 .. 7: eight columns further.
            const auto left = host::shown_by<Fragments>(shown, row * 4 + k % 8 / 2).a[k / 8 * 4 + lower * 2 + k % 2];
            // b: numbers 0, 1: rows lane % 4 * 2 and the next, column lane / 4; 2, 3: eight rows further.
            const auto right = host::shown_by<Fragments>(shown, column * 4 + k % 8 / 2).b[k / 8 * 2 + k % 2];
            c[i] += widen(left) * widen(right);
        }
    }
}

inline const unsigned char (*rows_of_matrices(const void *row))[64] {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
        host::fail("a row of a matrix is not aligned to 16 bytes");
    }
    return host::show(static_cast<const unsigned char *>(row));
}

inline uint16_t element(const unsigned char (*rows)[64], unsigned matrix, unsigned row, unsigned column) {
    uint16_t bits;
    std::memcpy(&bits, host::shown_by<const unsigned char *>(rows, matrix * 8 + row) + column * 2, sizeof bits);
    return bits;
}

inline void load_matrices(unsigned (&to)[4], const void *row) {
    const auto *rows = rows_of_matrices(row);
    const unsigned lane = threadIdx.x % host::WARP;
    for (unsigned i = 0; i < 4; ++i) {
        to[i] = element(rows, i, lane / 4, lane % 4 * 2) | unsigned(element(rows, i, lane / 4, lane % 4 * 2 + 1)) << 16;
    }
}

inline void load_matrices_transposed(unsigned (&to)[4], const void *row) {
    const auto *rows = rows_of_matrices(row);
    const unsigned lane = threadIdx.x % host::WARP;
    for (unsigned i = 0; i < 4; ++i) {
        to[i] = element(rows, i, lane % 4 * 2, lane / 4) | unsigned(element(rows, i, lane % 4 * 2 + 1, lane / 4)) << 16;
    }
}

inline void copy_async(void *to, const void *from) {
    if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
        host::fail("a copy is not aligned to 16 bytes");
    }
    if (host::copies_at_once) {
        std::memcpy(to, from, 16);
    } else {
        host::current->copies.back().push_back({to, from});
    }
}

inline void close_copies() { host::current->copies.emplace_back(); }

template <int OPEN> inline void wait_for_copies() {
    auto &groups = host::current->copies;
    while (groups.size() > OPEN + 1) {
        for (const host::Copy &copy : groups.front()) {
            std::memcpy(copy.to, copy.from, 16);
        }
        groups.erase(groups.begin());
    }
}
