#!/usr/bin/env bash
# Several machines with the deepspeed launcher:  HOSTFILE=hosts scripts/launch_multinode.sh exp=mix_general_doc_med
# HOSTFILE has a line "name slots=8" for each machine, reached by ssh without a password, with the same folder mounted.
# --no_local_rank: the launcher's own flag would stand before the command.
set -euo pipefail
complain() {
  echo "launch_multinode.sh: $1" >&2
  exit 2
}
[ -n "${HOSTFILE:-}" ] || complain "say HOSTFILE=FILE: a file with a line 'name slots=8' for each machine"
[ -f "$HOSTFILE" ] && [ -r "$HOSTFILE" ] || complain "HOSTFILE=$HOSTFILE is no file that can be read"
grep -Eq '^[^#[:space:]]+[[:space:]]+slots=[1-9][0-9]*[[:space:]]*$' "$HOSTFILE" ||
  complain "HOSTFILE=$HOSTFILE names no machine: write a line 'name slots=8' for each"
if odd=$(grep -Evnm1 '^[[:space:]]*(#.*)?$|^[^#[:space:]]+[[:space:]]+slots=[1-9][0-9]*[[:space:]]*$' "$HOSTFILE"); then
  complain "HOSTFILE=$HOSTFILE, line $odd: write 'name slots=8'"
fi
command -v deepspeed >/dev/null || complain "no deepspeed here: pip install 'llava-moe[train]', in this environment"
command=train
case ${1:-} in doctor | eval | train)
  command=$1
  shift
  ;;
esac
exec deepspeed --no_local_rank --hostfile "$HOSTFILE" \
  --module llava_moe "$command" "$@"
