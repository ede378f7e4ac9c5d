#!/usr/bin/env bash
# One machine, a process for each GPU:  scripts/launch.sh exp=mix_general_doc_med parallel=zero2     (GPUS=4: four)
# Not torchrun: it turns our 75 (stopped on a signal with a checkpoint saved: start the same command again) into 1, dies
# of SIGUSR1, and kills after 30 seconds what is still saving.
set -uo pipefail
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
export WORLD_SIZE=$gpus MASTER_ADDR=127.0.0.1 MASTER_PORT=${MASTER_PORT:-29500} OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
# Said again where a run is stopped.
export LLAVA_MOE_LAUNCHER="${GPUS:+env GPUS=$GPUS }$0"
ranks=()
for ((rank = 0; rank < gpus; rank++)); do
  RANK=$rank LOCAL_RANK=$rank python -m llava_moe train "$@" &
  ranks+=($!)
done
trap 'kill -TERM "${ranks[@]}" 2>/dev/null' TERM USR1 INT
status=0
while ((${#ranks[@]})); do
  sleep 1
  for place in "${!ranks[@]}"; do
    kill -0 "${ranks[place]}" 2>/dev/null && continue
    wait "${ranks[place]}"
    code=$?
    unset "ranks[place]"
    # What stops one rank stops all: the others would wait for it.
    if ((code != 0 && status == 0)); then
      status=$code
      ((code == 75)) || kill -TERM "${ranks[@]}" 2>/dev/null
    fi
  done
done
exit "$status"
