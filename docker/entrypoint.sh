#!/bin/sh
# Every argument goes to llava-moe; another program is run as it is (for a shell: docker run -it IMAGE sh).
set -e
if command -v "$1" >/dev/null 2>&1; then exec "$@"; fi
exec llava-moe "$@"
