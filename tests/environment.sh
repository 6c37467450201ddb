#!/bin/sh
# Makes build/venv, the environment of the Python parts of the tests, from pinned lists. `environment.sh eval` adds what
# tools/agf_eval.py draws and counts with, `environment.sh zig` a compiler for Windows, macOS and browsers, `environment.sh page` what drives a browser,
# `environment.sh torch` PyTorch, `environment.sh notebook` what bench/peers.ipynb compares with, `environment.sh lint` what tests/lint.sh
# checks with.
# Exits nonzero, with the reason on one line, where it cannot be made: then those tests are skipped.
set -u
cd "$(dirname "$0")/.." || exit 1
venv=build/venv
lists=tests/requirements.txt
for extra in "$@"; do lists="$lists tests/requirements-$extra.txt"; done
wants() { case " $lists " in *"-$1.txt "*) return 0 ;; esac; return 1; }

# A copy of each list that was installed marks it; a changed pin makes it again.
made() { for l in $lists; do cmp -s "$l" "$venv/made-from-${l##*/}" || return 1; done; }
made && exit 0

fail() { echo "$*"; exit 1; }
command -v python3 >/dev/null || fail "python3 is not installed"
mkdir -p build
[ -x $venv/bin/pip ] || python3 -m venv $venv >build/venv.log 2>&1 || fail "python3 -m venv failed (package python3-venv?), see build/venv.log"
for l in requirements.txt requirements-eval.txt requirements-zig.txt requirements-lint.txt requirements-page.txt; do
  extra=${l#requirements-}
  [ "$extra" = "$l" ] || wants "${extra%.txt}" || continue
  $venv/bin/pip install -q --disable-pip-version-check -r tests/$l >>build/venv.log 2>&1 ||
    fail "pip could not install tests/$l (network?), see build/venv.log"
done
if wants torch; then
  $venv/bin/pip install -q --disable-pip-version-check --no-deps -r tests/requirements-torch.txt >>build/venv.log 2>&1 ||
    fail "pip could not install tests/requirements-torch.txt (network?), see build/venv.log"
  # PyTorch's x86 build loads GPU libraries even to run on the CPU: first the small ones, then, where the machine has no CUDA
  # toolkit to bring the others, all that it asks for
  $venv/bin/python -c 'import torch' 2>/dev/null ||
    $venv/bin/pip install -q --disable-pip-version-check --no-deps nvidia-cufile nvidia-cusparselt-cu13 nvidia-nvshmem-cu13 \
      nvidia-nccl-cu13 >>build/venv.log 2>&1
  $venv/bin/python -c 'import torch' 2>/dev/null ||
    $venv/bin/pip install -q --disable-pip-version-check -r tests/requirements-torch.txt >>build/venv.log 2>&1
  $venv/bin/python -c 'import torch, torchvision' 2>>build/venv.log || fail "PyTorch cannot be imported, see build/venv.log"
fi
if wants notebook; then # their own lists of what they need would bring PyTorch's packages for GPUs
  $venv/bin/pip install -q --disable-pip-version-check --no-deps -r tests/requirements-notebook.txt >>build/venv.log 2>&1 ||
    fail "pip could not install tests/requirements-notebook.txt (network?), see build/venv.log"
fi
for l in $lists; do cp "$l" "$venv/made-from-${l##*/}"; done
