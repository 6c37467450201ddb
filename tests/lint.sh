#!/bin/sh
# Static analysis of the engine and the program: cppcheck, clang-tidy (.clang-tidy says what is left out), gcc -fanalyzer. Over the portable
# build: the kernels of every instruction set are the same templates, and their intrinsics are not what the analysers know.
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0 skipped=0
check() { # TOOL COMMAND...: silent and exit code 0
  tool=$1
  shift
  if ! command -v "$1" >/dev/null 2>&1; then
    echo "SKIP $tool: $1 is not installed"
    skipped=$((skipped + 1))
  elif "$@" >build/lint.log 2>&1 && ! grep -qE 'warning:|error:' build/lint.log; then
    passed=$((passed + 1))
  else
    echo "FAIL $tool:"
    grep -vE 'warnings? generated' build/lint.log | head -n 40
    failed=$((failed + 1))
  fi
}
mkdir -p build
# invalidPointerCast: a row's maxima are kept as floats in memory that also holds doubles; nothing is read as the other
check cppcheck cppcheck --quiet --std=c99 --enable=warning,performance,portability --suppress=missingInclude \
  --suppress=invalidPointerCast -DAGF_NO_SIMD=1 --error-exitcode=1 agf.c
check 'clang-tidy agf.c' clang-tidy --quiet agf.c -- -std=c99 -DAGF_NO_SIMD
check 'gcc -fanalyzer' gcc -std=c99 -O1 -DAGF_NO_SIMD -fanalyzer -c agf.c -o build/lint.o
# what clang-format leaves as it is: comments, tables, the kernels, the program
check 'lines over 140 columns, comments closed on a line of their own' awk \
  'length > 140 || /^ *[*]? *[*]\/ *$/ { print FILENAME ":" FNR ": error: " $0; bad = 1 } END { exit bad }' \
  agf.h agf.c kernels/* tools/*.[ch] tests/*.[ch]
if [ $skipped -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ $failed -eq 0 ]
