#!/usr/bin/env bash
# One machine, a process for each GPU:  scripts/launch.sh exp=mix_general_doc_med parallel=zero2     (GPUS=4: four)
# The first word may be another command that several processes share: scripts/launch.sh doctor ranks=true
# Not torchrun: it turns our 75 (stopped on a signal with a checkpoint saved: start the same command again) into 1, dies
# of SIGUSR1, and kills after 30 seconds what is still saving.
set -uo pipefail
complain() {
  echo "launch.sh: $1" >&2
  exit 2
}
if [ -z "${GPUS+set}" ]; then
  command -v nvidia-smi >/dev/null ||
    complain "no nvidia-smi, so no GPU was found: say how many with GPUS=4, or train on the CPU with: llava-moe train"
  listed=$(nvidia-smi --list-gpus 2>&1) || complain "nvidia-smi fails (${listed%%$'\n'*}): fix the driver, or say GPUS=4"
  GPUS=$(grep -c '^GPU ' <<<"$listed") || complain "nvidia-smi lists no GPU: train on the CPU with: llava-moe train"
fi
[[ $GPUS =~ ^[1-9][0-9]{0,2}$ ]] || complain "GPUS=$GPUS is no number of GPUs: give 1 or more"
gpus=$GPUS
[[ ${MASTER_PORT:-29500} =~ ^[1-9][0-9]{0,4}$ ]] || complain "MASTER_PORT=$MASTER_PORT is no port: give 1024 to 65535"
[[ ${GRACE:-120} =~ ^[0-9]{1,5}$ ]] || complain "GRACE=$GRACE is no number of seconds"
command=train
case ${1:-} in doctor | eval | train)
  command=$1
  shift
  ;;
esac
command -v python >/dev/null || complain "no python here: activate the environment that llava-moe is installed in"
export WORLD_SIZE=$gpus LOCAL_WORLD_SIZE=$gpus MASTER_ADDR=127.0.0.1 MASTER_PORT=${MASTER_PORT:-29500} OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
# Said again where a run is stopped.
printf -v script %q "$0"
export LLAVA_MOE_LAUNCHER="env GPUS=$GPUS $script"
# Two jobs that are told one port do not mix.
printf -v LLAVA_MOE_JOB '%04x%04x' "$RANDOM" "$RANDOM"
export LLAVA_MOE_JOB
ranks=()
for ((rank = 0; rank < gpus; rank++)); do
  RANK=$rank LOCAL_RANK=$rank python -m llava_moe "$command" "$@" &
  ranks+=($!)
done
trap 'kill -TERM "${ranks[@]}" 2>/dev/null' TERM USR1
# Ranks in a script's background are deaf to Ctrl-C: the first saves, the second leaves at once.
num_interrupts=0
trap 'kill -$((num_interrupts++ ? 9 : 15)) "${ranks[@]}" 2>/dev/null' INT
status=0
# When all have to be gone, in seconds since the start of the shell; none before one of them has failed.
deadline=
while ((${#ranks[@]})); do
  sleep 1
  # What waits for a rank that is gone may hear no signal: a meeting that never comes, a device that does not answer.
  if [[ -n $deadline ]] && ((SECONDS > deadline)); then
    echo "launch.sh: ${#ranks[@]} of $gpus processes still run ${GRACE:-120} s after one has failed: they are killed" >&2
    kill -KILL "${ranks[@]}" 2>/dev/null
    deadline=
  fi
  for place in "${!ranks[@]}"; do
    kill -0 "${ranks[place]}" 2>/dev/null && continue
    wait "${ranks[place]}"
    code=$?
    unset "ranks[place]"
    # What stops one rank stops all: the others would wait for it.
    if ((code != 0 && status == 0)); then
      status=$code
      deadline=$((SECONDS + ${GRACE:-120}))
      ((code == 75)) || kill -TERM "${ranks[@]}" 2>/dev/null
    fi
  done
done
# An error of its own stays what it is.
((num_interrupts)) && [[ $status =~ ^(75|130|137|143)$ ]] && status=130
exit "$status"
