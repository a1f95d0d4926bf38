#!/bin/bash
# Runs a command inside the node's namespaces, in its cgroups. Arguments: process id of the first process, the command.
set -eu
target="$1"; shift
exec nsenter --target "$target" --mount --net --pid --uts --ipc --cgroup -- \
  /bin/bash -c 'for group in /sys/fs/cgroup/*; do echo $$ > "$group/cgroup.procs"; done; exec "$@"' enter "$@"
