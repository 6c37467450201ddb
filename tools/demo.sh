#!/bin/sh
# What `make demo` runs: every scene of tests/demo, a map for each object in it, and how much of a map lies on its own object. The
# pictures go to build/.
set -eu
cd "$(dirname "$0")/.."
data=tests/demo
while read -r scene classes; do
  [ -n "$scene" ] || continue
  name=${scene%.png}
  set --
  for class in $classes; do set -- "$@" -c "$class" --mask "$data/$name.$class.mask.png"; done
  build/agf explain $data/demo.agf "$data/$scene" "$@" -o "build/demo-$name.png" </dev/null
  [ "${first:-}" ] || { first=$name; cp "build/demo-$name.png" build/demo.png; }
done <$data/demo.txt
echo "The pictures are build/demo-*.png; build/demo.png is the first."
