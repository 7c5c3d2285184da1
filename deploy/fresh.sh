#!/usr/bin/env bash
# Proves that the two commands need nothing that was installed by hand: a minimal tree of a distribution made by
# debootstrap, with git, make, sudo and python3; a clone of this repository's HEAD in it; then, in a chroot with mount,
# network and process namespaces of its own, `make demo` and `make test`.
#
#   sudo make fresh                                                        Debian 12
#   sudo FRESH_SUITE=trixie make fresh                                     Debian 13
#   sudo FRESH_SUITE=forky make fresh                                      Debian testing, for the newest Python
#   sudo FRESH_SUITE=noble FRESH_MIRROR=http://archive.ubuntu.com/ubuntu make fresh
#
# FRESH_TARGETS="demo test" says what is made, FRESH_KEEP=1 keeps the tree. The network's own settings (proxy
# variables, pip's configuration and CA bundle) are carried over; the machine's namespaces are not touched.
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/require-root.sh "make fresh"
suite=${FRESH_SUITE:-bookworm}
mirror=${FRESH_MIRROR:-http://deb.debian.org/debian}
targets=${FRESH_TARGETS:-demo test}

missing=
for package in debootstrap slirp4netns git; do
  command -v "$package" >/dev/null || missing="$missing $package"
done
if [ -n "$missing" ]; then
  apt-get -q update >&2
  # shellcheck disable=SC2086  # a list of words
  apt-get -q -y install --no-install-recommends $missing >&2
fi

work=$(mktemp -d /var/tmp/quietwire-fresh.XXXXXX)
tree=$work/tree
slirp=
inner=
finish() {
  status=$?
  [ -z "$slirp" ] || kill "$slirp" 2>/dev/null || true
  # The first process of the process namespace takes every other with it; its mounts go with the mount namespace.
  [ -z "$inner" ] || kill -9 "$inner" 2>/dev/null || true
  wait 2>/dev/null || true
  if [ "${FRESH_KEEP:-}" = 1 ]; then
    echo "kept: $tree" >&2
  else
    rm -rf --one-file-system "$work"
  fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

echo "== a minimal $suite from debootstrap" >&2
components=main
case $mirror in *ubuntu*) components=main,universe ;; esac
script=
if [ ! -e "/usr/share/debootstrap/scripts/$suite" ]; then # newer than this debootstrap: all of a distribution are the same one
  case $mirror in *ubuntu*) script=gutsy ;; *) script=sid ;; esac
  script=/usr/share/debootstrap/scripts/$script
fi
# shellcheck disable=SC2086  # no script is no word
debootstrap --variant=minbase --components="$components" --include=git,make,sudo,python3 "$suite" "$tree" "$mirror" $script \
  >"$work/debootstrap.log" 2>&1 || { tail -20 "$work/debootstrap.log" >&2; exit 1; }
git clone --quiet --no-local . "$tree/root/quietwire"
[ -z "$(git status --porcelain)" ] || echo "note: changes that are not committed are not in the clone" >&2

settings=()
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_DEFAULT_TIMEOUT; do
  [ -z "${!name:-}" ] || settings+=("$name=${!name}")
done
bundle=${PIP_CERT:-${SSL_CERT_FILE:-}}
if [ -n "$bundle" ]; then
  cp "$bundle" "$tree/etc/fresh-ca-bundle.pem"
  settings+=("PIP_CERT=/etc/fresh-ca-bundle.pem")
fi
echo "nameserver 10.0.2.3" >"$tree/etc/resolv.conf" # slirp4netns' own

cat >"$tree/fresh-inside" <<'INSIDE'
set -eu
mount --make-rprivate /
mount --bind "$1" "$1" # `ip netns exec` wants the root to be a mount
mount -t proc proc "$1/proc"
mount -t sysfs sysfs "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
ip link set lo up
read -r go </proc/self/fd/3 # the network is there
shift_root=$1
shift
exec chroot "$shift_root" /usr/bin/env -i HOME=/root TERM=dumb LC_ALL=C.UTF-8 \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
INSIDE

mkfifo "$work/go"
exec 3<>"$work/go"
for target in $targets; do
  commands="${commands:+$commands && }echo '== make $target' >&2 && time make $target"
done
unshare --mount --net --pid --fork --kill-child --ipc --uts \
  bash "$tree/fresh-inside" "$tree" "${settings[@]}" bash -c "cd /root/quietwire && $commands" &
inner=$!
netns=
for _ in $(seq 100); do
  child=$(tr -d " " <"/proc/$inner/task/$inner/children" || true)
  [ -z "$child" ] || netns=$(readlink "/proc/$child/ns/net" || true)
  [ -z "$netns" ] || [ "$netns" = "$(readlink /proc/self/ns/net)" ] || break
  sleep 0.1
done
slirp4netns --configure --mtu=1400 --disable-host-loopback --ready-fd=4 "$child" tap0 4>"$work/slirp" \
  >"$work/slirp.log" 2>&1 &
slirp=$!
for _ in $(seq 100); do
  [ -s "$work/slirp" ] && break
  kill -0 "$slirp" 2>/dev/null || { cat "$work/slirp.log" >&2; exit 1; }
  sleep 0.1
done
echo go >&3
wait "$inner"
echo "== $suite: make ${targets// /, make } went through" >&2
