#!/bin/sh
# The drop-in pair, alone in a folder: the same bytes every time, no warning from any compiler, standard or target at hand, only agf_
# symbols, each switch of its own. Then the suites on it: golden cases and hostile sizes here, five small golden cases and hostile sizes on
# emulated aarch64, whose kernels are checked too, i686 and armv7 (tests/test_bits.sh runs all networks there, for the same bits as here). What
# is not installed is skipped aloud.
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

# parses LABEL COMMAND...: $source, without a word; compiles OBJECT LABEL COMMAND...: the same with machine code. What the optimiser alone sees
# and warns of, it sees in one standard and one target of a compiler; all that clang warns of, it sees without making code; and the code of -O0
# is made and run by tests/test_bits.sh.
source=agf.c
silent() {
  label=$1
  shift
  if ! have "$1"; then
    skip "$label: $1 is not installed"
    return 1
  fi
  if "$@" $source >log 2>&1 && [ ! -s log ]; then ok; else fail "$label:" && sed 5q log && return 1; fi
}
parses() { silent "$@" -fsyntax-only; }
compiles() {
  object=$1
  shift
  silent "$@" -c -o "$object"
}
strict='-Wall -Wextra -Wpedantic -Wconversion'
machine=$(uname -m)
kernels='-DAGF_INTERNAL=__attribute__((visibility("hidden")))' # for tests of the kernels alone: tests/inside.h
# shellcheck disable=SC2086 # flags are several words
{
  parses plain cc
  parses 'gcc c99' gcc -std=c99 $strict
  compiles "$machine.o" 'cc c99 -O2' cc -std=c99 $strict -O2 "$kernels"
  parses 'gcc c2x' gcc -std=c2x $strict
  parses 'clang c99' clang -std=c99 $strict
  parses 'clang c2x' clang -std=c2x $strict
  compiles cxx.o 'g++ c++17' g++ -x c++ -std=c++17 $strict -O2
  parses 'clang++ c++17' clang++ -x c++ -std=c++17 $strict
  [ "$machine" = aarch64 ] || compiles aarch64.o aarch64 aarch64-linux-gnu-gcc -std=c99 $strict -O2 "$kernels"
  # the emulator hands the host's 64-bit inodes and offsets to the program, which reads folders with them only where off_t has 64 bits
  compiles armv7.o armv7 arm-linux-gnueabihf-gcc -D_FILE_OFFSET_BITS=64 -std=c99 $strict -O2
  compiles i686.o i686 i686-linux-gnu-gcc -D_FILE_OFFSET_BITS=64 -std=c99 $strict -O2
  for switch in AGF_NO_THREADS AGF_NO_SIMD AGF_NO_FILE AGF_NO_METHODS AGF_NO_CLOCK; do
    # without the kernels, which no other switch touches
    compiles switch.o $switch cc -std=c99 $strict -D$switch -DAGF_NO_SIMD -O1
    [ $switch = AGF_NO_THREADS ] && nm -u switch.o | grep -q pthread && fail "$switch: pthread is still used"
    [ $switch = AGF_NO_FILE ] && nm -u switch.o | grep -qE ' (mmap|open)$' && fail "$switch: files are still used"
    [ $switch = AGF_NO_CLOCK ] && nm -u switch.o | grep -qw 'clock\(_gettime\)*' && fail "$switch: a clock is still read"
  done
  bare='-DAGF_NO_THREADS -DAGF_NO_FILE -DAGF_NO_CLOCK -DAGF_NO_SIMD'
  compiles switch.o 'without an operating system' cc -std=c99 $strict $bare -O1
  system=$(nm -u switch.o | awk '{ print $2 }' | grep -E '^(pthread_.*|sched_.*|sysconf|getpid|open|close|fstat|mmap|munmap|madvise|clock.*)$')
  [ -z "$system" ] && ok || fail "without an operating system: $system is still used"
  echo '#include "agf.c"' >static.c
  echo 'int main(void) { return agf_version()[0] == 0; }' >>static.c
  source=static.c
  for language in 'gcc -std=c99' 'clang -std=c99' 'g++ -x c++ -std=c++17'; do
    compiles switch.o "one translation unit: $language" $language -Wall -Wextra -DAGF_API=static -DAGF_NO_SIMD -DAGF_NO_FILE
  done
  source=agf.c
  # a shared library that keeps its copy to itself: two copies, of different versions, do not take each other's place
  if compiles hidden.o 'hidden in a shared library' cc -std=c99 $strict -DAGF_NO_SIMD -O1 -fPIC -fvisibility=hidden; then
    echo 'const char *agf_version(void); const char *mine(void); const char *mine(void) { return agf_version(); }' >mine.c
    cc -fPIC -shared -o libmine.so mine.c hidden.o -lm -lpthread && seen=$(nm -D --defined-only libmine.so | awk '{ print $3 }' | tr '\n' ' ')
    [ "$seen" = 'mine ' ] && ok || fail "a shared library with -fvisibility=hidden shows $seen"
  fi
  zig=$root/build/venv/bin/python
  if "$zig" -m ziglang version >/dev/null 2>&1; then
    export ZIG_GLOBAL_CACHE_DIR="$root/build/zig" ZIG_LOCAL_CACHE_DIR="$root/build/zig"
    # compiled, not run; zig does not parse alone. The kernels of a processor are one text for all systems: once for each
    compiles zig.o 'zig x86_64-windows-gnu' "$zig" -m ziglang cc -target x86_64-windows-gnu -std=c99 $strict -O2
    compiles zig.o 'zig aarch64-macos' "$zig" -m ziglang cc -target aarch64-macos -std=c99 $strict -O2
    compiles zig.o 'zig x86_64-macos' "$zig" -m ziglang cc -target x86_64-macos -std=c99 $strict -O2 -DAGF_NO_SIMD
  else
    skip "Windows and macOS targets: ziglang is not in build/venv (sh tests/environment.sh zig)"
  fi
}
others=$(nm --defined-only -g "$machine.o" | awk '{ print $3 }' | grep -v '^agf_')
[ -z "$others" ] && ok || fail "symbols that do not begin with agf_: $others"

# Beside the pair now the tests, which include ../agf.h or ../agf.c.
mkdir tests
cp "$root"/tests/*.[ch] tests
export AGF_TESTS="$root/tests"

# passes LABEL COMMAND...: its closing line says that nothing failed
passes() {
  label=$1
  shift
  count=
  "$@" >log 2>&1 && count=$(sed -n 's/^\([0-9][0-9]*\) passed, 0 failed.*/\1/p' log | tail -n 1)
  if [ "$count" ]; then
    passed=$((passed + count))
  else
    fail "$label through the pair: $(grep FAIL log | head -n 3) $(tail -n 1 log)"
  fi
}

# Every op in few pixels: all golden cases take emulated processors minutes.
few='corners conv_logits grouped_odd linear_middle long_strides'
mkdir few
for name in $few; do
  ln -s "$root"/tests/golden*/$name few/
  echo $name >>few/cases.txt
done

# suites TARGET COMPILER RUNNER CASES: golden cases and hostile sizes on $TARGET.o, as compiled above
suites() {
  target=$1 compiler=$2 runner=$3 cases=$4
  if ! have "${compiler%% *}" || { [ "$runner" ] && ! have "$runner"; }; then
    skip "suites for $target: ${compiler%% *} or $runner is not installed"
    return
  fi
  if [ ! -f $target.o ]; then
    fail "$target: there is no object"
    return
  fi
  static=-static
  [ "$runner" ] || static=
  for test in test_golden test_hostile; do
    $compiler -std=c99 $static tests/$test.c $target.o -o $target-$test -lm -lpthread || fail "$target: $test does not link"
  done
  # shellcheck disable=SC2086 # no runner, all cases: no word
  {
    passes "$target: golden cases" $runner ./$target-test_golden $cases
    passes "$target: hostile sizes" $runner ./$target-test_hostile -k test_sizes
    [ $target = aarch64 ] || return # other processors have no kernels of their own, or make test runs theirs, the same text
    $compiler -std=c99 -O1 $static tests/check_kernels.c $target.o -o $target-check_kernels -lm -lpthread || fail "$target: check_kernels"
    passes "$target: check_kernels" $runner ./$target-check_kernels --rounds 100
  }
}
suites "$machine" cc '' ''
[ "$machine" = aarch64 ] || suites aarch64 aarch64-linux-gnu-gcc qemu-aarch64 few
suites armv7 'arm-linux-gnueabihf-gcc -D_FILE_OFFSET_BITS=64' qemu-arm few
suites i686 'i686-linux-gnu-gcc -D_FILE_OFFSET_BITS=64' qemu-i386 few

if [ $skipped -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ $failed -eq 0 ]
