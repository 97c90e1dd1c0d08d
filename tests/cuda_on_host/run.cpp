// Runs kernels of the .cu files on the CPU (cuda_on_host.hpp) for the test that started it. Reads launches from standard input until it ends:
//   name (text), grid x, grid y, threads, bytes of shared memory, number of arguments (u32 each), then the arguments:
//   a kind (u32): 0 a number of 32 bits, 1 a buffer: its length in bytes (u32) and its bytes.
// A text is its length (u32) and its bytes. For each launch it writes the bytes of all buffers afterwards to standard output.
// Every launch runs twice: buffers at the end of their room, threads forwards and copies late; buffers at the beginning, threads backwards and copies
// at once. It ends with 3 and a line on
// standard error where a kernel touches what is not its own, where threads wait for ever, or where the two runs differ.
#include "attention.cu"
#include "rows.cu"

#include <csignal>
#include <map>
#include <memory>
#include <string>
#include <tuple>

namespace {

struct Argument {
    uint32_t kind, number;
    std::vector<unsigned char> bytes;
};

void read_exactly(void *to, size_t bytes) {
    if (std::fread(to, 1, bytes, stdin) != bytes) {
        std::fprintf(stderr, "a launch is cut off\n");
        std::_Exit(2);
    }
}

uint32_t read_number() {
    uint32_t number;
    read_exactly(&number, sizeof number);
    return number;
}

template <class T> T value(const Argument &argument, unsigned char *at) {
    T value;
    if constexpr (std::is_pointer_v<T>) {
        if (argument.kind != 1) {
            host::fail("a number was given where a buffer belongs");
        }
        value = reinterpret_cast<T>(at);
    } else {
        static_assert(sizeof(T) == 4);
        if (argument.kind != 0) {
            host::fail("a buffer was given where a number belongs");
        }
        std::memcpy(&value, &argument.number, sizeof value);
    }
    return value;
}

using Buffers = std::vector<std::unique_ptr<host::Guarded>>;
using Bound = std::function<std::function<void()>(const std::vector<Argument> &, const Buffers &)>;

template <class... A, size_t... I> std::function<void()> with_arguments(void (*kernel)(A...), const std::vector<Argument> &arguments, const Buffers &buffers, std::index_sequence<I...>) {
    if (arguments.size() != sizeof...(A)) {
        host::fail("the number of arguments is another one");
    }
    std::tuple<A...> values{value<A>(arguments[I], buffers[I]->at)...};
    return [kernel, values] { std::apply(kernel, values); };
}

template <class... A> Bound bound(void (*kernel)(A...)) {
    return [kernel](const std::vector<Argument> &arguments, const Buffers &buffers) {
        return with_arguments(kernel, arguments, buffers, std::index_sequence_for<A...>{});
    };
}

#define NAMED(kernel) {#kernel, bound(kernel)}
#define OF_TYPES(kernel) NAMED(kernel##_f32), NAMED(kernel##_bf16), NAMED(kernel##_f16)
#define OF_DIMS(kernel, warps) NAMED(kernel##_32_##warps), NAMED(kernel##_64_##warps), NAMED(kernel##_128_##warps)

const std::map<std::string, Bound> KERNELS = {
    OF_DIMS(attention_f32, 4),      OF_DIMS(attention_bf16, 1), OF_DIMS(attention_bf16, 4), OF_DIMS(attention_f16, 1), OF_DIMS(attention_f16, 4),
    OF_TYPES(merge),                OF_TYPES(rotate_and_write), OF_TYPES(add_rms_norm),     OF_TYPES(rms_norm),        OF_TYPES(silu_mul),
    OF_TYPES(logprob_rows),
};

void touched_outside(int) { host::fail("it touches memory that is not its own"); }

// The bytes of all buffers after a run.
std::vector<unsigned char> run(const Bound &kernel, const std::vector<Argument> &arguments, Index grid, unsigned threads, size_t shared, bool backwards) {
    Buffers buffers;
    for (const Argument &argument : arguments) {
        buffers.push_back(std::make_unique<host::Guarded>(argument.bytes.size(), !backwards));
        std::memcpy(buffers.back()->at, argument.bytes.data(), argument.bytes.size());
    }
    host::run_grid(grid, threads, shared, backwards, kernel(arguments, buffers));
    std::vector<unsigned char> after;
    for (size_t i = 0; i < arguments.size(); ++i) {
        after.insert(after.end(), buffers[i]->at, buffers[i]->at + arguments[i].bytes.size());
    }
    return after;
}

} // namespace

int main() {
    // A fibre that runs over its stack would raise the signal where there is no room for its handler.
    static unsigned char stack[64 << 10];
    const stack_t of_signals{stack, 0, sizeof stack};
    sigaltstack(&of_signals, nullptr);
    struct sigaction action {};
    action.sa_handler = touched_outside;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    uint32_t length;
    while (std::fread(&length, 1, sizeof length, stdin) == sizeof length) {
        std::string name(length, '\0');
        read_exactly(name.data(), length);
        host::kernel = name.c_str();
        Index grid;
        grid.x = read_number();
        grid.y = read_number();
        const uint32_t threads = read_number(), shared = read_number();
        std::vector<Argument> arguments(read_number());
        for (Argument &argument : arguments) {
            argument.kind = read_number();
            argument.number = read_number();
            if (argument.kind == 1) {
                argument.bytes.resize(argument.number);
                read_exactly(argument.bytes.data(), argument.number);
            }
        }
        const auto kernel = KERNELS.find(name);
        if (kernel == KERNELS.end()) {
            host::fail("there is no such kernel");
        }
        const auto after = run(kernel->second, arguments, grid, threads, shared, false);
        if (after != run(kernel->second, arguments, grid, threads, shared, true)) {
            host::fail("what it writes depends on the order of threads");
        }
        std::fwrite(after.data(), 1, after.size(), stdout);
        std::fflush(stdout);
    }
    return 0;
}
