#!/bin/sh
# What `make bench` runs; the results go to build/bench/ as JSON and Markdown. How to read them: bench/README.md.
#
#   MODELS="a.agf b.agf" make bench     these model files besides the demo's
#   SQUEEZENET="NET.onnx X.npy"         a real SqueezeNet and its preprocessed input for the comparison with peers
set -u
cd "$(dirname "$0")/.." || exit 1
out=build/bench
demo=tests/demo/demo.agf
scene=tests/demo/$(head -n 1 tests/demo/demo.txt | cut -d' ' -f1)
mkdir -p $out

echo "== kernels, as shares of the peak or in GB/s"
build/check_kernels --bench | tee $out/kernels.txt

for model in $demo ${MODELS:-}; do
  for threads in 1 0; do
    echo "== agf bench $model --threads $threads"
    name=$(basename "$model" .agf)-$threads
    build/agf bench "$model" --threads $threads --json >"$out/$name.json" && build/agf bench "$model" --threads $threads -v
  done
done

if command -v hyperfine >/dev/null; then
  echo "== whole runs of the program"
  hyperfine --warmup 2 --export-json $out/program.json --export-markdown $out/program.md \
    "build/agf explain $demo $scene -q" "build/agf explain $demo $scene --top 3 -q" "build/agf info $demo"
else
  echo "SKIP whole runs of the program: hyperfine is not installed"
fi

python=build/venv/bin/python
if [ -x $python ] && $python -c 'import torch, onnxruntime' 2>/dev/null; then
  for threads in 1 2; do
    # shellcheck disable=SC2086 # two words
    $python bench/peers.py --threads $threads --json $out/peers-$threads.json ${SQUEEZENET:+--squeezenet $SQUEEZENET} | tee $out/peers-$threads.md
  done
  $python bench/ratios.py --folder $out/ratios | tee $out/ratios.md
  $python bench/ratios.py --scaling --folder $out/ratios | tee $out/scaling.md
  $python bench/folder.py --folder $out/ratios | tee $out/folder.md
else
  echo "SKIP peers: PyTorch and ONNX Runtime are not in build/venv (make torch)"
fi
