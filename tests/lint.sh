#!/bin/sh
# Static analysis and formatting. The C: clang-format (.clang-format), cppcheck, clang-tidy (.clang-tidy says what is left out), gcc
# -fanalyzer; over the portable build, because the kernels of every instruction set are the same templates, and their intrinsics are not
# what the analysers know. The Python: ruff and mypy (pyproject.toml). ruff, mypy and clang-format are those of
# tests/requirements-lint.txt.
#
#   lint.sh             check
#   lint.sh --format    format the C
set -u
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build}
log=$build/lint.log
bin=build/venv/bin
mkdir -p "$build"
# Not among them: agf.h, kernels.h, ref.h, arm.h and lanes.inc, whose comments and lists are set as tables; kernels' templates, where it takes VX(not) for a cast
# and statements that a macro writes for expressions; what tools/make_selftest.py writes.
formatted="agf.c kernels/x86.h kernels/wasm.h kernels/crc32.h kernels/conv_sizes.inc tests/*.c tests/*.h tests/fuzz/*.c bench/*.c tools/*.c tools/page/*.c
  $(printf '%s\n' tools/*.h | grep -v selftest_data)"
tools=$(sh tests/environment.sh lint)
if [ "${1:-}" = --format ]; then
  [ -z "$tools" ] || { echo "$tools"; exit 1; }
  # shellcheck disable=SC2086 # patterns
  exec $bin/clang-format -i $formatted
fi

passed=0 failed=0 skipped=0
check() { # NAME COMMAND...: silent and exit code 0
  name=$1
  shift
  if ! command -v "$1" >/dev/null 2>&1; then
    echo "SKIP $name: $1 is not installed${tools:+ ($tools)}"
    skipped=$((skipped + 1))
  elif "$@" >"$log" 2>&1 && ! grep -qE 'warning:|error:' "$log"; then
    passed=$((passed + 1))
  else
    echo "FAIL $name:"
    grep -vE 'warnings? generated' "$log" | head -n 40 | sed 's/^/  /'
    failed=$((failed + 1))
  fi
}
# shellcheck disable=SC2086 # patterns
check 'clang-format' $bin/clang-format --dry-run --Werror $formatted
check 'ruff' $bin/ruff check --no-cache --output-format concise .
check 'mypy' $bin/mypy --cache-dir "$build/mypy"
check cppcheck cppcheck --quiet --std=c99 --enable=warning,performance,portability --suppress=missingInclude \
  -DAGF_NO_SIMD=1 --error-exitcode=1 agf.c
# Everything but the path-sensitive analyser takes seconds; that one takes many minutes for agf.c.
if [ "${CI:-}" ]; then
  check 'clang-tidy agf.c' clang-tidy --quiet --checks='-clang-analyzer-*' agf.c -- -std=c99 -DAGF_NO_SIMD
  echo "SKIP clang-tidy's analyser on agf.c: make lint runs it"
  skipped=$((skipped + 1))
else
  check 'clang-tidy agf.c' clang-tidy --quiet agf.c -- -std=c99 -DAGF_NO_SIMD
fi
check 'clang-tidy agf_cli.c' clang-tidy --quiet --header-filter='tools/cli_' tools/agf_cli.c -- -std=c99 -I.
# not inlined: with agf_at in its callers, every one of them may be given no buffer
check 'gcc -fanalyzer' gcc -std=c99 -O1 -DAGF_NO_SIMD -fno-inline -fanalyzer -c agf.c -o "$build/lint.o"
# what clang-format leaves as it is: comments, tables, the kernels
check 'lines over 140 columns, comments closed on a line of their own' awk \
  'length > 140 || /^ *[*]? *[*]\/ *$/ { print FILENAME ":" FNR ": error: " $0; bad = 1 } END { exit bad }' \
  agf.h agf.c kernels/* tools/*.[ch] tests/*.[ch]
if [ $skipped -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ $failed -eq 0 ]
