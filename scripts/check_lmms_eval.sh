#!/usr/bin/env bash
# Scores a run by `llava-moe eval` and by lmms-eval through our plug-in and compares scores and answers one by one.
#
#   scripts/check_lmms_eval.sh [RUN] [FOLDER]
#
# RUN: a run's folder; without it a short demo run is trained (a minute or two). FOLDER: where environment, data and
# scores go (default: a folder of the machine's own for temporary files); kept, so that a second call is quicker.
# The environment is made by the lines that docs/lmms_eval.md gives, so that the page is proved with the plug-in.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="$(realpath -m "${2:-${TMPDIR:-/tmp}/llava-moe-lmms-eval}")"
run="${1:-$folder/run}"
python="$folder/venv/bin/python"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Without cached bytecode every process would compile torch and transformers again.
unset PYTHONDONTWRITEBYTECODE

if [ ! -e "$folder/venv/.installed" ]; then
  rm -rf "$folder/venv"
  mkdir -p "$folder"
  # The page's first block of bash makes the environment, in a folder that is called lmms there.
  lines="$(awk '/^```/ { if (inside) exit; inside = 1; next } inside' docs/lmms_eval.md)"
  [[ "$lines" == *"lmms-eval=="* ]] || { echo "docs/lmms_eval.md: its first block does not install lmms-eval" >&2; exit 1; }
  lines="${lines/venv lmms/venv $folder/venv}"
  lines="${lines/. lmms\//. $folder/venv/}"
  PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 bash -euo pipefail -c "$lines"
  "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt pytest pytest-timeout
  touch "$folder/venv/.installed"
fi
if [ $# -eq 0 ] && [ ! -e "$run/checkpoints/last" ]; then
  "$python" -m llava_moe train exp=mix_general_doc_med scale=demo train.max_steps=20 out="$run"
fi
"$python" -m pytest -q tests/lmms_eval_plugin/test_lmms_eval.py
exec "$python" -m tests.peers.lmms_eval_scores "$run" "$folder/scores"
