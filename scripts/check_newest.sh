#!/usr/bin/env bash
# Runs the suite with the newest release of every dependency, whatever the upper bounds in pyproject.toml say, and prints
# the versions. What passes here is what those bounds may be raised to.
#
#   scripts/check_newest.sh [FOLDER] [PYTEST ARGUMENTS ...]
#
# FOLDER: where the environment goes (default: a folder of the machine's own for temporary files). It is made from scratch
# on each call: an environment that stands already would keep its versions.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="$(realpath -m "${1:-${TMPDIR:-/tmp}/llava-moe-newest}")"
shift || true
python="$folder/bin/python"
# Without cached bytecode every process would compile torch and transformers again.
unset PYTHONDONTWRITEBYTECODE

rm -rf "$folder"
"${PYTHON:-python3}" -m venv "$folder"
# The names without their bounds, with those of the extras that the tests use; our own name stands for the extras.
mapfile -t names < <("${PYTHON:-python3}" - <<'PY'
import re
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
listed = [*project["dependencies"], *(one for name in ("train", "peft", "quantised", "dev") for one in extras[name])]
names = {re.match(r"[\w-]+", one).group() for one in listed}
print("\n".join(sorted(names - {"llava-moe"})))
PY
)
pip=("$python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" "${names[@]}"
# Ours alone: with its dependencies its bounds would be obeyed.
"${pip[@]}" --no-deps -e .
"$python" -m llava_moe doctor || true
"$python" -m pip list --disable-pip-version-check | grep -i -E '^(torch|transformers|tokenizers|peft|deepspeed|datasets|pillow|numpy|hydra-core) '
exec "$python" -m pytest -n 2 --dist worksteal -m "not gpu" "$@"
