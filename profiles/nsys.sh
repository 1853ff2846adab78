#!/usr/bin/env bash
# One steady block under Nsight Systems, then its report against the budget.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: profiles/nsys.sh [--out STEM] [--svg FILE] [options of steady_block.py: --model --size --precision --graphs]

Profiles exactly one steady block (cudaProfilerStart/Stop), exports it to STEM.sqlite and prints each op's time beside
its floor. STEM is out/nsys by default. The Python is $PYTHON, else .venv/bin/python, else python3. Needs nsys.
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-}
[[ -n $python ]] || { [[ -x .venv/bin/python ]] && python=.venv/bin/python || python=python3; }
out=out/nsys
driver=() report=()
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --out | --svg | --model | --size | --precision)
      if (($# < 2)); then
        echo "nsys.sh: $1: expected a value, got none (see --help)" >&2
        exit 2
      fi
      case $1 in
        --out) out=$2 ;;
        --svg) report+=("$1" "$2") ;;
        *) driver+=("$1" "$2") report+=("$1" "$2") ;;
      esac
      shift 2 ;;
    --graphs) driver+=("$1"); shift ;;
    *) echo "nsys.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
done
if ! command -v nsys > /dev/null; then
  echo "nsys.sh: nsys was not found; 'steady_block.py --trace block.json' needs only torch" >&2
  exit 2
fi

mkdir -p "$(dirname "$out")"
nsys profile --trace=cuda,nvtx --sample=none --cpuctxsw=none \
  --capture-range=cudaProfilerApi --capture-range-end=stop --cuda-graph-trace=node \
  --force-overwrite=true --output="$out" \
  "$python" profiles/steady_block.py --device cuda "${driver[@]}"
nsys export --type=sqlite --force-overwrite=true --output="$out.sqlite" "$out.nsys-rep"
"$python" profiles/report.py "$out.sqlite" "${report[@]}"
