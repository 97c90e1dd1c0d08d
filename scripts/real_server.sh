#!/bin/sh
# usage: eval "$(scripts/real_server.sh DIR)"
#
# Installs llama.cpp's own HTTP server (a wheel, seconds) below DIR, makes a GGUF file of a tiny model, and prints the environment
# variables with which `cargo test --test it llama_server` starts it. What is in DIR already is used again.
#
# The tools and the model are not ours and are used where they lie: SWALLOW_EVAL_TOOLS (default ../shared/tools) and
# SWALLOW_EVAL_GOLDEN (default ../shared/golden). Where they are absent nothing is installed, the reason is printed to stderr, and the
# test reports itself as skipped.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
tools=${SWALLOW_EVAL_TOOLS:-$here/../shared/tools}/real-servers
model=${SWALLOW_EVAL_GOLDEN:-$here/../shared/golden}/models/tiny-llama31
for needed in "$tools/make_gguf.py" "$tools/serve_xllamacpp.py" "$model/config.json"; do
    [ -f "$needed" ] || { echo "skipped: $needed is not there" >&2; exit 0; }
done
mkdir -p "$1"
dir=$(CDPATH= cd -- "$1" && pwd)
tools=$(CDPATH= cd -- "$tools" && pwd)

python=$dir/venv/bin/python
if ! "$python" -c 'import xllamacpp, gguf, safetensors, tokenizers' 2>/dev/null; then
    python3 -m venv "$dir/venv" >&2
    "$python" -m pip install --quiet --disable-pip-version-check \
        xllamacpp==2026.10.11549 gguf==0.19.0 'numpy>=2' 'safetensors>=0.8' 'tokenizers>=0.22' >&2
fi
gguf=$dir/tiny-llama31.gguf
if [ ! -s "$gguf" ]; then
    "$python" "$tools/make_gguf.py" "$model" "$gguf.partial" >&2
    mv "$gguf.partial" "$gguf"
fi

quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }
printf 'export SWALLOW_EVAL_LLAMA_SERVER_PYTHON=%s\n' "$(quoted "$python")"
printf 'export SWALLOW_EVAL_LLAMA_SERVER_SCRIPT=%s\n' "$(quoted "$tools/serve_xllamacpp.py")"
printf 'export SWALLOW_EVAL_LLAMA_SERVER_GGUF=%s\n' "$(quoted "$gguf")"
