#!/usr/bin/env python3
"""Make stand-ins for CUDA's shared libraries, so that a program built with the feature `cuda` starts on a machine without them.

usage: cuda_lazy.py CUDARC_SOURCE OUT

Each stand-in is a static library with the functions that cudarc (whose bindings are read for names and return types) may call. A function's
first call opens the real library and looks the real function up; every later call jumps there. Where the library or the function is not at
hand the call gives back an error: a status, or a text where a text is asked for. x86-64 with the System V calling convention only.
"""

import re
import subprocess
import sys
from pathlib import Path

# Name for the linker, folder of the bindings, status where the library is missing, names under which it is looked for.
# The statuses: CUDA_ERROR_NO_DEVICE, CUBLAS_STATUS_NOT_INITIALIZED (twice), CURAND_STATUS_NOT_INITIALIZED, NVRTC_ERROR_INTERNAL_ERROR,
# ncclSystemError.
LIBRARIES = [
    ("cuda", "driver", 100, ["libcuda.so.1"]),
    ("cublas", "cublas", 1, ["libcublas.so.13", "libcublas.so.12"]),
    ("cublasLt", "cublaslt", 1, ["libcublasLt.so.13", "libcublasLt.so.12"]),
    ("curand", "curand", 101, ["libcurand.so.10"]),
    ("nvrtc", "nvrtc", 11, ["libnvrtc.so.13", "libnvrtc.so.12"]),
    ("nccl", "nccl", 2, ["libnccl.so.2"]),
]

INTEGERS = ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax"]
VECTORS = 8
FRAME = 16 * VECTORS + 8 * (len(INTEGERS) + 1)


def functions(bindings: Path) -> dict[str, str]:
    """Name to what a call gives back where the function is missing: `status`, `text`, `zero`, or a text through its second argument."""
    found = {}
    for name, result in re.findall(r"^\s+fn (\w+)\(.*\)(?: -> ([^;{]+))?;$", bindings.read_text(), re.M):
        if name in ("cuGetErrorName", "cuGetErrorString"):
            kind = "text_out"
        elif "c_char" in result:
            kind = "text"
        elif re.search(r"(CUresult|Status_t|nvrtcResult|ncclResult_t)$", result):
            kind = "status"
        else:
            kind = "zero"
        found[name] = kind
    return dict(sorted(found.items()))


def assembly(library: str, names: list[str]) -> str:
    """One entry a function: to the real one where it is known, else to the search, with every argument register kept."""
    lines = [".text"]
    for index, name in enumerate(names):
        lines += [
            f".globl {name}",
            f".type {name}, @function",
            f"{name}:",
            f"    movq lazy_{library}_table+{8 * index}(%rip), %r11",
            "    testq %r11, %r11",
            "    jz 1f",
            "    jmp *%r11",
            f"1:  movl ${index}, %r11d",
            "    jmp first_call",
            f".size {name}, .-{name}",
        ]
    vectors = [(f"%xmm{i}", 16 * i) for i in range(VECTORS)]
    integers = [(f"%{name}", 16 * VECTORS + 8 * i) for i, name in enumerate(INTEGERS)]
    lines += ["first_call:", "    pushq %rbp", "    movq %rsp, %rbp", f"    subq ${FRAME}, %rsp", "    andq $-16, %rsp"]
    lines += [f"    movaps {register}, {at}(%rsp)" for register, at in vectors]
    lines += [f"    movq {register}, {at}(%rsp)" for register, at in integers]
    lines += ["    movl %r11d, %edi", f"    call lazy_{library}_find", "    movq %rax, %r11"]
    lines += [f"    movaps {at}(%rsp), {register}" for register, at in vectors]
    lines += [f"    movq {at}(%rsp), {register}" for register, at in integers]
    lines += ["    movq %rbp, %rsp", "    popq %rbp", "    jmp *%r11", '.section .note.GNU-stack,"",@progbits', ""]
    return "\n".join(lines)


def search(library: str, status: int, sonames: list[str], missing: dict[str, str]) -> str:
    """What looks a function up, in C."""
    entries = "\n".join(f'    {{"{name}", (void *){kind}}},' for name, kind in missing.items())
    opened = " ".join(f'if (!library) library = dlopen("{soname}", RTLD_NOW | RTLD_GLOBAL);' for soname in sonames)
    return f"""#include <dlfcn.h>

static long status(void) {{ return {status}; }}
static const char *text(void) {{ return "{sonames[0]} is not at hand"; }}
static long zero(void) {{ return 0; }}
static long text_out(int error, const char **out) {{ (void)error; *out = text(); return 0; }}

static const struct {{ const char *name; void *missing; }} entries[] = {{
{entries}
}};

__attribute__((visibility("hidden"))) void *lazy_{library}_table[sizeof entries / sizeof *entries];

__attribute__((visibility("hidden"))) void *lazy_{library}_find(unsigned index) {{
    static void *library;
    {opened}
    void *found = library ? dlsym(library, entries[index].name) : 0;
    if (!found) return entries[index].missing;
    __atomic_store_n(&lazy_{library}_table[index], found, __ATOMIC_RELEASE);
    return found;
}}
"""


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for library, folder, status, sonames in LIBRARIES:
        missing = functions(source / "src" / folder / "sys" / "mod.rs")
        if not missing:
            sys.exit(f"cuda_lazy.py: no function found in the bindings of {folder}: cudarc has changed their form")
        objects = []
        for suffix, content in [("S", assembly(library, list(missing))), ("c", search(library, status, sonames, missing))]:
            file = out / f"lazy_{library}.{suffix}"
            file.write_text(content)
            objects.append(out / f"lazy_{library}_{suffix}.o")
            subprocess.run(["cc", "-O2", "-fPIC", "-c", file, "-o", objects[-1]], check=True)
        archive = out / f"lib{library}.a"
        archive.unlink(missing_ok=True)
        subprocess.run(["ar", "rcs", archive, *objects], check=True)
        print(f"{archive.name}: {len(missing)} functions")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
