#!/usr/bin/env bash
# One machine, all its GPUs:  scripts/launch.sh exp=mix_general_doc_med parallel=zero2
# 75 (stopped on a signal with a checkpoint saved) is passed on: start the same command again to go on.
set -euo pipefail
exec torchrun --standalone --nproc-per-node="${GPUS:-gpu}" -m llava_moe train "$@"
