#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that are missing, and only those.
#   deploy/install-packages.sh demo    what `make demo` needs
#   deploy/install-packages.sh test    the applications of the scenarios too
#   deploy/install-packages.sh cluster what a Kubernetes on this machine needs of the machine itself
#   deploy/install-packages.sh bench   the peers and the load generators of bench/
# No service that comes with a package is started on this machine: a scenario starts its own, in its own namespace.
set -eu
what=${1:-demo}
packages="python3-venv python3-dev gcc libc6-dev libssl-dev iptables nftables libxtables12 libip4tc2 libip6tc2
  iproute2 procps kmod curl nginx ca-certificates"
if [ "$what" = test ]; then
  packages="$packages conntrack netcat-openbsd openssl redis-server redis-tools postgresql postgresql-client
    mariadb-server mariadb-client nats-server openssh-server openssh-client"
fi
if [ "$what" = cluster ] || [ "$what" = test ]; then
  packages="$packages libseccomp2 util-linux mount"
fi
if [ "$what" = bench ]; then
  packages="$packages libnginx-mod-stream haproxy stunnel4 openssl wrk iperf3"
fi

missing=
for package in $packages; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "These packages are missing:$missing" >&2
  echo "Install them as root: sudo apt-get install --no-install-recommends$missing" >&2
  exit 1
fi
echo "installing$missing" >&2

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  # dpkg asks this script before it starts a service; 101 says no.
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q -o DPkg::Lock::Timeout=300 update >&2
# shellcheck disable=SC2086  # a list of words
apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $missing >&2
