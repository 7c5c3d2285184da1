#!/usr/bin/env bash
# Says plainly that a target needs root, instead of failing somewhere inside it.
set -eu
if [ "$(id -u)" -ne 0 ]; then
  echo "$1 makes network namespaces and iptables rules, and needs root: sudo $1" >&2
  exit 1
fi
