#!/usr/bin/env bash
# LLaVA-1.5-7B at its real shapes with random weights, once from stage 1 to a PEFT folder, without a GPU or a network.
#   scripts/true_size.sh                  all 32 layers: 24 GB of memory, 40 GB of disk, an hour or more
#   LAYERS=4 scripts/true_size.sh         real widths, four layers of each part: minutes
# OUT=FOLDER holds what is made (runs/true_size). Prints minutes and GiB of each command beside what plan told.
set -euo pipefail
exec python "$(dirname "$0")/true_size.py" "${OUT:-runs/true_size}" "${LAYERS:-32}"
