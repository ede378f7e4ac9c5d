#!/usr/bin/env bash
# Scores a run by `llava-moe eval` and by lmms-eval through our plug-in and compares scores and answers one by one.
#
#   scripts/check_lmms_eval.sh [RUN] [FOLDER]
#
# RUN: a run's folder; without it a short demo run is trained (a minute or two). FOLDER: where environment, data and
# scores go (default: a folder of the machine's own for temporary files); kept, so that a second call is quicker.
# lmms-eval stays out of our environment: its own dependencies would bring torchvision, so it is installed without them.
# The packages of .venv are shared where there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="$(realpath -m "${2:-${TMPDIR:-/tmp}/llava-moe-lmms-eval}")"
run="${1:-$folder/run}"
python="$folder/venv/bin/python"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Without cached bytecode every process would compile torch and transformers again.
unset PYTHONDONTWRITEBYTECODE

if [ ! -e "$folder/venv/.installed" ]; then
  mkdir -p "$folder"
  "${PYTHON:-python3}" -m venv "$folder/venv"
  if [ -x .venv/bin/python ]; then
    shared="$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    echo "$shared" > "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps -e .
  else
    "$python" -m pip install --quiet --disable-pip-version-check -e ".[train]" pytest pytest-timeout
  fi
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.3
  # What lmms-eval imports and we do not have; it uses pytz without saying so.
  "$python" -m pip install --quiet --disable-pip-version-check \
    accelerate loguru pytz tenacity sacrebleu scikit-learn evaluate pytablewriter zstandard
  touch "$folder/venv/.installed"
fi
if [ $# -eq 0 ] && [ ! -e "$run/checkpoints/last" ]; then
  "$python" -m llava_moe train exp=mix_general_doc_med scale=demo train.max_steps=20 out="$run"
fi
"$python" -m pytest -q tests/lmms/test_lmms_eval.py
exec "$python" -m tests.peers.lmms_eval_scores "$run" "$folder/scores"
