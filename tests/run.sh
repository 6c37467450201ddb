#!/bin/sh
# Runs every test that this machine can run and closes with their sum: `N passed, N failed, N skipped`. `make test` calls it when
# everything is built. Each program closes with such a line of its own; one that does not, or that exits nonzero without a failure,
# counts as a failure.
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0 skipped=0
log=build/test.log

run() { # NAME COMMAND...
  name=$1
  shift
  echo "== $name"
  start=$(date +%s)
  "$@" >$log 2>&1
  code=$?
  line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' $log | tail -n 1)
  if [ -z "$line" ]; then
    cat $log
    echo "FAIL $name: exit code $code and no closing line"
    failed=$((failed + 1))
    return
  fi
  grep -E '^(FAIL|SKIP)|^  ' $log
  # shellcheck disable=SC2086 # the line's words
  set -- $(echo "$line" | tr -d ,)
  passed=$((passed + $1))
  failed=$((failed + $3))
  skipped=$((skipped + ${5:-0}))
  if [ $code -ne 0 ] && [ "$3" -eq 0 ]; then
    tail -n 20 $log
    echo "FAIL $name: exit code $code"
    failed=$((failed + 1))
  fi
  echo "   $line ($(($(date +%s) - start)) s)"
}

skip() { # NAME REASON
  echo "== $1"
  echo "SKIP $1: $2"
  skipped=$((skipped + 1))
}

export OMP_NUM_THREADS=2
for t in $TESTS; do run "$t" build/"$t"; done
if [ "${CI:-}" ]; then run 'check_kernels, 200 seeds' build/check_kernels --seeds 200 --rounds 20; fi

run test_bits sh tests/test_bits.sh
if [ "${CI:-}" ]; then
  run test_dist sh tests/test_dist.sh
else
  skip test_dist "compiles the drop-in pair with every compiler and target at hand, for minutes: CI=true make test, or sh tests/test_dist.sh"
fi
if command -v python3 >/dev/null; then
  AGF_DEMO=$PWD/tests/demo/demo.agf run test_cli python3 tests/test_cli.py
  run test_hostile_cli python3 tests/test_hostile_cli.py
else
  skip test_cli "python3 is not installed"
  skip test_hostile_cli "python3 is not installed"
fi
if reason=$(sh tests/environment.sh); then
  for t in $PYTHON_TESTS; do run "$t" build/venv/bin/python tests/"$t".py; done
else
  for t in $PYTHON_TESTS; do skip "$t" "$reason"; done
fi

if [ $skipped -gt 0 ]; then
  echo "$passed passed, $failed failed, $skipped skipped"
else
  echo "$passed passed, $failed failed"
fi
[ $failed -eq 0 ] && [ $passed -gt 0 ]
