#!/bin/sh
# The drop-in pair, alone in a folder: the same bytes every time, no warning from any compiler, standard or target at hand, only agf_
# symbols, each switch of its own, and the golden cases through it. What is not installed is skipped aloud.
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
work=build/test_dist
passed=0 failed=0 skipped=0
rm -rf $work
mkdir -p $work/pair $work/again
ok() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAIL $*"; }
skip() { skipped=$((skipped + 1)); echo "SKIP $*"; }
have() { command -v "$1" >/dev/null 2>&1; }

if ! have python3; then
  echo "SKIP dist: python3 is not installed"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi
python3 tools/amalgamate.py $work/pair && python3 tools/amalgamate.py $work/again || fail "amalgamate.py"
for f in agf.h agf.c; do cmp $work/pair/$f $work/again/$f && ok || fail "$f differs when made again"; done
grep -n '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' $work/pair/agf.c | grep -v '"agf.h"' && fail "agf.c still includes a file" || ok
cd $work/pair || exit 1

# compiles LABEL COMMAND...: without a word
compiles() {
  label=$1
  shift
  if ! have "$1"; then
    skip "$label: $1 is not installed"
    return 1
  fi
  if "$@" -c agf.c -o agf.o >log 2>&1 && [ ! -s log ]; then ok; else fail "$label:" && head -n 5 log && return 1; fi
}
strict='-Wall -Wextra -Wpedantic -Wconversion'
# shellcheck disable=SC2086 # flags are several words
{
  compiles plain cc
  for cc in gcc clang; do
    newest=c2x
    compiles "$cc c99 -O0" $cc -std=c99 $strict -O0
    compiles "$cc c99 -O2" $cc -std=c99 $strict -O2
    compiles "$cc $newest" $cc -std=$newest $strict -O2
  done
  compiles 'g++ c++17' g++ -x c++ -std=c++17 $strict -O2
  compiles 'clang++ c++17' clang++ -x c++ -std=c++17 $strict -O2
  for target in i686-linux-gnu aarch64-linux-gnu arm-linux-gnueabihf; do compiles $target $target-gcc -std=c99 $strict -O2; done
  for switch in AGF_NO_THREADS AGF_NO_SIMD AGF_NO_FILE AGF_NO_METHODS; do
    compiles $switch cc -std=c99 $strict -D$switch -O1
    [ $switch = AGF_NO_THREADS ] && nm -u agf.o | grep -q pthread && fail "$switch: pthread is still used"
    [ $switch = AGF_NO_FILE ] && nm -u agf.o | grep -qE ' (mmap|open)$' && fail "$switch: files are still used"
  done
  zig=$(ls "$root"/build/venv/bin/python 2>/dev/null)
  if [ "$zig" ] && "$zig" -m ziglang version >/dev/null 2>&1; then
    for target in x86_64-windows-gnu aarch64-macos x86_64-macos aarch64-windows-gnu; do # compiled, not run
      compiles "zig $target" "$zig" -m ziglang cc -target $target -std=c99 -Wall -Wextra -O2
    done
  else
    skip "Windows and macOS targets: the Python package ziglang is not in build/venv"
  fi
}
cc -O2 -c agf.c -o agf.o
others=$(nm --defined-only -g agf.o | awk '{ print $3 }' | grep -v '^agf_')
[ -z "$others" ] && ok || fail "symbols that do not begin with agf_: $others"
cp "$root/tests/test_golden.c" "$root/tests/testing.h" .
sed 's|"../agf.h"|"agf.h"|' test_golden.c >golden.c
cc -std=c99 golden.c agf.o -o golden -lm -lpthread && AGF_TESTS="$root/tests" ./golden >golden.log && ok || fail "the golden cases through the pair: $(tail -n 3 golden.log)"

if [ $skipped -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ $failed -eq 0 ]
