#!/usr/bin/env bash
# Several machines by ssh, a process for each slot:  HOSTFILE=hosts scripts/launch_multinode.sh exp=mix_general_doc_med
# HOSTFILE has a line "name slots=8" for each machine, reached by ssh without a password, with the same folder mounted.
# Not the deepspeed launcher: it dies of SIGUSR1 and leaves the processes behind, turns our 75 (stopped on a signal with
# a checkpoint saved: start the same command again) into 1, and writes what it exports, keys among them, on the command
# lines of ssh, where every user of a machine reads them. Here ssh's standard input carries the environment, then
# signals; where it ends, since this script was killed or the connection is lost, the other side stops its processes.
set -uo pipefail
complain() {
  echo "launch_multinode.sh: $1" >&2
  exit 2
}

# Runs on each machine. Its input is lines: those up to "go" are shell, those behind it names of signals.
# shellcheck disable=SC2317,SC2153  # it is sent there as text; its capitals come by the input
on_a_machine() {
  local line word='' part status=0 deadline='' heard=$SECONDS place code
  local -a ranks=()
  while IFS= read -r line && [[ $line != go ]]; do eval "$line"; done
  [[ ${line:-} == go ]] || exit 2
  # A rank must not die of a line that it writes when the connection is gone: it saves then.
  exec > >(trap '' INT TERM && exec tee -p /dev/null) 2> >(trap '' INT TERM && exec tee -p /dev/null >&2)
  cd "$FOLDER" || exit 2
  for ((place = 0; place < LOCAL_WORLD_SIZE; place++)); do
    RANK=$((FIRST_RANK + place)) LOCAL_RANK=$place "$PYTHON" -m llava_moe "${WORDS[@]}" </dev/null &
    ranks+=($!)
  done
  trap 'kill -TERM "${ranks[@]}" 2>/dev/null' TERM HUP INT
  while ((${#ranks[@]})); do
    # The second may be over amid a line.
    IFS= read -r -t 1 part
    code=$?
    word+=$part
    if ((code == 0)); then
      heard=$SECONDS
      [[ $word =~ ^(TERM|USR1|KILL)$ ]] && kill "-$word" "${ranks[@]}" 2>/dev/null
      word=
    elif [[ -z $deadline ]] && ((code <= 128 || SECONDS - heard > SILENCE)); then
      kill -TERM "${ranks[@]}" 2>/dev/null
      deadline=$((SECONDS + GRACE))
    fi
    ((code > 0 && code <= 128)) && sleep 1
    if [[ -n $deadline ]] && ((SECONDS > deadline)); then
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
        deadline=$((SECONDS + GRACE))
        ((code == 75)) || kill -TERM "${ranks[@]}" 2>/dev/null
      fi
    done
  done
  exit "$status"
}

[ -n "${HOSTFILE:-}" ] || complain "say HOSTFILE=FILE: a file with a line 'name slots=8' for each machine"
[[ -f $HOSTFILE && -r $HOSTFILE ]] || complain "HOSTFILE=$HOSTFILE is no file that can be read"
hosts=() slots=() number=0
while IFS= read -r line || [ -n "$line" ]; do
  number=$((number + 1))
  [[ $line =~ ^[[:space:]]*(#.*)?$ ]] && continue
  [[ $line =~ ^([^#[:space:]-][^#[:space:]]*)[[:space:]]+slots=([1-9][0-9]{0,2})[[:space:]]*$ ]] ||
    complain "HOSTFILE=$HOSTFILE, line $number:$line: write 'name slots=8'"
  for host in ${hosts[@]+"${hosts[@]}"}; do
    [ "$host" = "${BASH_REMATCH[1]}" ] && complain "HOSTFILE=$HOSTFILE, line $number: $host stands there twice"
  done
  hosts+=("${BASH_REMATCH[1]}") slots+=("${BASH_REMATCH[2]}")
done <"$HOSTFILE"
((${#hosts[@]})) || complain "HOSTFILE=$HOSTFILE names no machine: write a line 'name slots=8' for each"
MASTER_PORT=${MASTER_PORT:-29500} GRACE=${GRACE:-120} SILENCE=${SILENCE:-300}
[[ $MASTER_PORT =~ ^[1-9][0-9]{0,4}$ ]] || complain "MASTER_PORT=$MASTER_PORT is no port: give 1024 to 65535"
for name in GRACE SILENCE; do
  [[ ${!name} =~ ^[0-9]{1,5}$ ]] || complain "$name=${!name} is no number of seconds"
done
for program in ssh mktemp mkfifo; do
  command -v "$program" >/dev/null || complain "no $program here: install it"
done
PYTHON=$(command -v python) || complain "no python here: activate the environment that llava-moe is installed in"
ssh=(ssh -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15 -o ServerAliveCountMax=4)
if [ -n "${MASTER_INTERFACE:-}" ]; then
  [[ $MASTER_INTERFACE =~ ^[A-Za-z0-9._@-]+$ ]] || complain "MASTER_INTERFACE=$MASTER_INTERFACE is no interface's name"
  told=$("${ssh[@]}" "${hosts[0]}" ip -o -4 address show dev "$MASTER_INTERFACE" </dev/null) ||
    complain "${hosts[0]} does not tell the address of its interface $MASTER_INTERFACE: is it reached by ssh?"
  [[ $told =~ inet\ ([0-9.]+) ]] || complain "the interface $MASTER_INTERFACE of ${hosts[0]} has no address"
  MASTER_ADDR=${BASH_REMATCH[1]}
fi
MASTER_ADDR=${MASTER_ADDR:-${hosts[0]##*@}}
WORLD_SIZE=0
for number in "${slots[@]}"; do WORLD_SIZE=$((WORLD_SIZE + number)); done
words=(train "$@")
case ${1:-} in doctor | eval | train) words=("$@") ;; esac
OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
printf -v LLAVA_MOE_JOB '%04x%04x' "$RANDOM" "$RANDOM"
# Said again where a run is stopped.
printf -v LLAVA_MOE_LAUNCHER 'env HOSTFILE=%q %q' "$HOSTFILE" "$0"
export OMP_NUM_THREADS LLAVA_MOE_JOB LLAVA_MOE_LAUNCHER
# What travels: all of these kinds, and what EXPORT names.
names=(MASTER_ADDR MASTER_PORT WORLD_SIZE GRACE SILENCE PYTHON)
for name in $(compgen -e) ${EXPORT:-}; do
  [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || complain "EXPORT=$EXPORT: $name is no name of a variable"
  case " ${EXPORT:-} " in *" $name "*) [ -n "${!name+set}" ] && names+=("$name") && continue ;; esac
  case $name in
    HF_* | WANDB_* | LLAVA_MOE_* | OMP_* | NCCL_* | TORCH_* | GLOO_* | TRANSFORMERS_* | TOKENIZERS_* | PYTHON?* | \
      PATH | LD_LIBRARY_PATH | VIRTUAL_ENV | CONDA_PREFIX) names+=("$name") ;;
  esac
done

pipes=$(mktemp -d) || complain "no folder for temporary files: see to TMPDIR"
trap 'rm -rf "$pipes"' EXIT
source=$(declare -f on_a_machine)
# In single quotes for whatever shell the other side logs in to.
far="exec bash -c '${source//\'/\'\\\'\'}; on_a_machine'"
links=() ways=() first=0
trap '' PIPE
for place in "${!hosts[@]}"; do
  mkfifo "$pipes/$place"
  (
    # A signal to the whole group, as a terminal or a batch system sends it, must not cut the connections.
    trap '' INT TERM USR1 HUP
    trap - PIPE
    for way in ${ways[@]+"${ways[@]}"}; do exec {way}>&-; done
    exec "${ssh[@]}" "${hosts[place]}" "$far" <"$pipes/$place"
  ) &
  links+=($!)
  exec {way}>"$pipes/$place"
  ways+=("$way")
  {
    for name in "${names[@]}"; do printf 'export %s=%q\n' "$name" "${!name}"; done
    printf 'export FIRST_RANK=%d LOCAL_WORLD_SIZE=%d\n' "$first" "${slots[place]}"
    printf 'FOLDER=%q\n' "$PWD"
    printf 'WORDS=('
    printf ' %q' "${words[@]}"
    printf ' )\ngo\n'
  } 2>/dev/null 1>&"$way"
  first=$((first + slots[place]))
done

# To all that are connected; one whose connection has ended takes nothing.
tell() {
  local place
  for place in "${!links[@]}"; do echo "$1" >&"${ways[place]}"; done 2>/dev/null
}
trap 'tell TERM' TERM HUP
trap 'tell USR1' USR1
# The first Ctrl-C saves, the second leaves at once.
num_interrupts=0
trap 'tell "$( ((num_interrupts)) && echo KILL || echo TERM)"; num_interrupts=$((num_interrupts + 1))' INT
status=0 deadline=
while ((${#links[@]})); do
  sleep 1
  tell alive
  if [[ -n $deadline ]] && ((SECONDS > deadline + 10)); then
    kill -KILL "${links[@]}" 2>/dev/null
  elif [[ -n $deadline ]] && ((SECONDS > deadline)); then
    tell KILL
  fi
  for place in "${!links[@]}"; do
    kill -0 "${links[place]}" 2>/dev/null && continue
    wait "${links[place]}"
    code=$?
    unset "links[place]"
    if ((code == 255)); then
      ((status)) || echo "launch_multinode.sh: ${hosts[place]} cannot be reached by ssh any more, or never was" >&2
      code=2
    fi
    if ((code != 0 && status == 0)); then
      status=$code
      deadline=$((SECONDS + GRACE))
      ((code == 75)) || tell TERM
    fi
  done
done
# An error of its own stays what it is.
((num_interrupts)) && [[ $status =~ ^(75|130|137|143)$ ]] && status=130
exit "$status"
