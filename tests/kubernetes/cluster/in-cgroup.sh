#!/bin/sh
# Runs a command in a node's cgroups, of every hierarchy: in-cgroup.sh CGROUP COMMAND...
set -eu
cgroup=$1
shift
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
  group=$hierarchy/$cgroup
  # With version 2 alone a node's processes are in a group of their own, beside those of its pods.
  if [ -e "$group/init/cgroup.procs" ]; then group=$group/init; fi
  if [ -e "$group/cgroup.procs" ]; then echo $$ >"$group/cgroup.procs"; fi
done
exec "$@"
