#!/usr/bin/env bash
# The kernels of one op in one steady block under Nsight Compute.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: profiles/ncu.sh --op OP [--count N] [--out STEM] [options of steady_block.py: --model --size --precision]

Profiles the first N (10) kernels inside the NVTX ranges of OP (fp8_linear, attention, ...) in one steady block, with
all sections, into STEM.ncu-rep (out/ncu_OP). The Python is $PYTHON, else .venv/bin/python, else python3. Needs ncu.
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-}
[[ -n $python ]] || { [[ -x .venv/bin/python ]] && python=.venv/bin/python || python=python3; }
op='' out='' count=10
driver=()
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --op | --out | --count | --model | --size | --precision)
      if (($# < 2)); then
        echo "ncu.sh: $1: expected a value, got none (see --help)" >&2
        exit 2
      fi
      case $1 in
        --op) op=$2 ;;
        --out) out=$2 ;;
        --count) count=$2 ;;
        *) driver+=("$1" "$2") ;;
      esac
      shift 2 ;;
    *) echo "ncu.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
done
known=$("$python" -c "
import sys; sys.path.insert(0, '.')
from liveact_kernels import ops
from liveact_kernels.contract import REGISTRY
print(' '.join(sorted(REGISTRY)))")
if [[ " $known " != *" ${op:-?} "* ]]; then
  echo "ncu.sh: --op: expected one of ${known// /, }, got '$op'" >&2
  exit 2
fi
if ! [[ $count =~ ^[1-9][0-9]*$ ]]; then
  echo "ncu.sh: --count: expected a whole number of at least 1, got '$count'" >&2
  exit 2
fi
if ! command -v ncu > /dev/null; then
  echo "ncu.sh: ncu was not found: it comes with the CUDA toolkit and with Nsight Compute" >&2
  exit 2
fi

out=${out:-out/ncu_$op}
mkdir -p "$(dirname "$out")"
# A trailing slash means push/pop ranges. The second filter is for Pythons without the nvtx package.
# The clocks stay as they are: ncu would lock them to the base clock, and times would match no other measurement.
ncu --set full --clock-control none --nvtx --nvtx-include "liveact@$op/" --nvtx-include "$op/" \
  --profile-from-start off --launch-count "$count" --force-overwrite --export "$out" \
  "$python" profiles/steady_block.py --device cuda --plain-ranges "${driver[@]}"
ncu --import "$out.ncu-rep" --page details --print-summary per-kernel
