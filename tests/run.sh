#!/bin/sh
# Runs every test that this machine can run, two suites at a time, and closes with their sum: `N passed, N failed, N skipped`. `make
# test` calls it when everything is built.
#
#   make test                                   what takes less than a minute each
#   CI=true make test                           all, the suites that take minutes too
#   make test SUITES="test_api test_cli"        these alone, slow or not
#
# A suite is a program that closes with such a line of its own; one that does not, that counts nothing, or that exits nonzero without a
# failure, counts as a failure. A suite is said when it ends: its failures, what it skipped, its line and its seconds.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build}
work=$build/tests
export OMP_NUM_THREADS=1 # two suites at a time
export AGF_BIN="$build/agf" AGF_LIBRARY="$build/libagf.so" AGF_DEMO=$PWD/tests/demo/demo.agf
case $build in
  /*) ;;
  *) AGF_BIN=$PWD/$AGF_BIN AGF_LIBRARY=$PWD/$AGF_LIBRARY ;;
esac
have() { command -v "$1" >/dev/null 2>&1; }

# Why a suite cannot be run, on one line; nothing if it can. What must be built for it is built.
missing() {
  case $1 in
    *-checked)
      have clang || { echo "clang is not installed"; return; }
      make -s "$build/$1" >"$work/$1.made" 2>&1 || echo "does not compile, see $work/$1.made: $(grep -m 1 error "$work/$1.made")"
      ;;
    test_cli | test_hostile_cli) have python3 || echo "python3 is not installed" ;;
    *) if [ -f "tests/$1.py" ]; then cat "$work/environment"; fi ;;
  esac
}

# The suite itself: a script, a Python program or a C program.
start() {
  case $1 in
    check_seeds) "$build/check_kernels" --seeds 200 --rounds 20 ;;
    lint | test_dist | test_bits | test_cmake | test_make) sh "tests/$1.sh" ;;
    test_cli | test_hostile_cli) python3 "tests/$1.py" ;; # Python's standard library alone
    *) if [ -f "tests/$1.py" ]; then build/venv/bin/python "tests/$1.py"; else "$build/$1"; fi ;;
  esac
}

# Runs a suite. Leaves what is to be said in $work/NAME.txt, and "PASSED FAILED SKIPPED" in $work/NAME.sum.
suite() {
  name=$1
  log=$work/$name.log
  began=$(date +%s)
  reason=$(missing "$name")
  case $reason in
    '') ;;
    'does not compile'*)
      echo "FAIL $name: $reason"
      echo "0 1 0" >"$work/$name.sum"
      return
      ;;
    *)
      echo "SKIP $name: $reason"
      echo "0 0 1" >"$work/$name.sum"
      return
      ;;
  esac
  start "$name" >"$log" 2>&1
  code=$?
  line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
  if [ -z "$line" ]; then
    cat "$log"
    echo "FAIL $name: exit code $code and no closing line"
    echo "0 1 0" >"$work/$name.sum"
    return
  fi
  grep -E '^(FAIL|SKIP)|^  ' "$log"
  # shellcheck disable=SC2086 # the line's words
  set -- $(echo "$line" | tr -d ,)
  failed=$3
  if [ $code -ne 0 ] && [ "$failed" -eq 0 ]; then
    tail -n 20 "$log"
    echo "FAIL $name: exit code $code"
    failed=1
  elif [ "$1" -eq 0 ] && [ "$failed" -eq 0 ] && [ "${5:-0}" -eq 0 ]; then
    echo "FAIL $name: it counts no test"
    failed=1
  fi
  echo "   $line ($(($(date +%s) - began)) s)"
  echo "$1 $failed ${5:-0}" >"$work/$name.sum"
}

if [ "${1:-}" = --suite ]; then
  { echo "== $2"; suite "$2"; } >"$work/$2.txt" 2>&1
  cat "$work/$2.txt"
  exit 0
fi

rm -rf "$work"
mkdir -p "$work"
# the longest first, so that none of them runs alone at the end: in CI test_readme and test_bits, else test_cli
first=test_cli slow= rest=$PYTHON_TESTS
if [ "${CI:-}" ]; then
  first="test_readme test_bits test_cli" slow=$SLOW_TESTS rest=$(echo " $PYTHON_TESTS " | sed 's/ test_readme / /')
else
  rest="$rest test_bits"
fi
suites=${SUITES:-$first $slow $rest $TESTS}
sh tests/environment.sh >"$work/environment" || true # the reason where the Python parts cannot be run
echo "$suites" | tr -s ' ' '\n' | grep . | xargs -P "${JOBS:-2}" -n 1 sh tests/run.sh --suite

passed=0 failed=0 skipped=0
for name in $suites; do
  if [ -f "$work/$name.sum" ]; then
    read -r p f s <"$work/$name.sum"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  else
    echo "FAIL $name: it did not end"
    failed=$((failed + 1))
  fi
done
if [ -z "${SUITES:-}${CI:-}" ]; then
  for name in $SLOW_TESTS; do
    echo "SKIP $name: CI=true make test, or make test SUITES=$name"
    skipped=$((skipped + 1))
  done
fi
if [ $skipped -gt 0 ]; then
  echo "$passed passed, $failed failed, $skipped skipped"
else
  echo "$passed passed, $failed failed"
fi
[ $failed -eq 0 ] && [ $passed -gt 0 ]
