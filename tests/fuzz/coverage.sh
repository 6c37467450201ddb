#!/bin/sh
# Line coverage of the sections of agf.c that see a model file first, from build/fuzz.profraw; fails below 90 % in one of them.
set -u
cd "$(dirname "$0")/../.." || exit 1
profdata=$(command -v llvm-profdata || command -v llvm-profdata-14) && cov=$(command -v llvm-cov || command -v llvm-cov-14) || exit 1
$profdata merge -sparse build/fuzz.profraw -o build/fuzz.profdata || exit 1
$cov show build/fuzz_replay -instr-profile=build/fuzz.profdata agf.c >build/coverage.txt || exit 1
# lines look like "  123|   45|code"; a section begins at its MARK
awk -F'|' '
  / MARK: / { name = $0; sub(/.*MARK: /, "", name); sub(/ -.*/, "", name) }
  $2 ~ /[0-9]/ { total[name]++; if ($2 + 0 > 0) hit[name]++; else if (name ~ /model file|graph and shapes|^plan/) print "  not reached:" $0 }
  END {
    split("model file,graph and shapes,plan,sessions", want, ",")
    for (i = 1; i in want; i++) {
      share = total[want[i]] ? 100 * hit[want[i]] / total[want[i]] : 0
      printf "%-24s %5.1f %% of %d lines\n", want[i], share, total[want[i]]
      if (i <= 3) { if (share >= 90) passed++; else failed++ }
    }
    printf "%d passed, %d failed\n", passed, failed
    exit failed > 0
  }' build/coverage.txt
