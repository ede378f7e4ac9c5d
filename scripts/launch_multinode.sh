#!/usr/bin/env bash
# Several machines with the deepspeed launcher:  HOSTFILE=hosts scripts/launch_multinode.sh exp=mix_general_doc_med
# HOSTFILE has a line "name slots=8" for each machine, reached by ssh without a password, with the same folder mounted.
# --no_local_rank: the launcher's own flag would stand before the command.
set -euo pipefail
exec deepspeed --no_local_rank --hostfile "${HOSTFILE:?a file with a line 'name slots=8' for each machine}" \
  --module llava_moe train "$@"
