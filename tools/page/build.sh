#!/bin/sh
# build.sh DIR: the web page, a folder to host anywhere: the engine as WebAssembly, the demo network and its scenes. Compiled by zig, which
# the PyPI package ziglang brings (tests/environment.sh zig), or by ZIG.
set -eu
cd "$(dirname "$0")/../.."
to=${1:?usage: build.sh DIR}
zig=${ZIG:-build/venv/bin/python -m ziglang}
$zig version >/dev/null 2>&1 || { echo "make page: needs zig: sh tests/environment.sh zig" >&2; exit 1; }
mkdir -p "$to"
# build NAME FEATURES: reactor: no main, a library. 1 MB of stack; memory grows with the model.
build() {
  $zig cc -target wasm32-wasi -mexec-model=reactor -mcpu="generic+bulk_memory+simd128$2" -std=gnu99 -O2 -s -Wall -Wextra \
    -DAGF_NO_THREADS -DAGF_NO_FILE -DAGF_NO_CLOCK -DAGF_API=static -fvisibility=hidden -Wl,-z,stack-size=1048576 tools/page/page.c -o "$to/$1" -lm
}
build agf.wasm ""
build agf-relaxed.wasm "+relaxed_simd"
cp tools/page/index.html tools/page/page.js tools/page/worker.js tools/page/page.css LICENSE tests/demo/demo.agf "$to"
for scene in $(cut -d ' ' -f 1 tests/demo/demo.txt); do cp "tests/demo/$scene" "$to"; done
echo "wrote $to: $(du -ck "$to"/* | tail -n 1 | cut -f 1) KB. Look at it: tools/agf_page.py --page $to"
