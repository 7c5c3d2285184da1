#!/bin/sh
# The first process of a node, in namespaces of its own: node-init.sh NAME DIRECTORY CNI_PLUGINS
# A node writes to its own layers of /etc, /opt and /var, has its own /run, and the paths that everybody expects.
set -eu
name=$1 directory=$2 plugins=$3
hostname "$name"
mount --make-rprivate /
# Other people's network namespaces, pinned below /run, would be held open here for as long as the node lives.
# One whose file somebody deletes meanwhile is gone here, too (`ip netns delete` unlinks it): nothing is left to unmount.
is_there() { awk -v it="$1" '$2 == it { found = 1 } END { exit !found }' /proc/mounts; }
awk '$2 ~ "^/run/" { print $2 }' /proc/mounts | sort -r | while read -r each; do
  umount -l "$each" || ! is_there "$each" || exit 1
done
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/netns
# Cgroups as a machine of one's own has them: what is below this node's is all that there is.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  umount /sys/fs/cgroup
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  # No group that has processes may have groups with controllers below it (cgroups(7), "no internal processes").
  mkdir -p /sys/fs/cgroup/init
  while read -r pid; do echo "$pid" >/sys/fs/cgroup/init/cgroup.procs; done </sys/fs/cgroup/cgroup.procs
  sed 's/[^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
else
  awk '$3 ~ "^cgroup2?$" { print $2, $3, $4 }' /proc/mounts | while read -r where kind options; do
    options=$(echo "$options" | tr , '\n' | grep -vxE 'rw|relatime|nosuid|nodev|noexec' | paste -sd, -)
    umount "$where"
    mount -t "$kind" ${options:+-o "$options"} cgroup "$where"
  done
fi
for each in etc opt var; do
  mkdir -p "$directory/layers/$each/upper" "$directory/layers/$each/work"
  mount -t overlay "$name-$each" \
    -o "lowerdir=/$each,upperdir=$directory/layers/$each/upper,workdir=$directory/layers/$each/work" "/$each"
done
mkdir -p /var/lib/kubelet /var/log/pods /etc/cni/net.d /opt/cni/bin
# On the file system itself, and not on an overlay: what containers mount, and what a power cut must not lose.
for each in kubelet pods cni plugins; do mkdir -p "$directory/$each"; done
cp -a "$plugins/." "$directory/plugins/"
mount --bind "$directory/kubelet" /var/lib/kubelet
mount --bind "$directory/pods" /var/log/pods
mount --bind "$directory/cni" /etc/cni/net.d
mount --bind "$directory/plugins" /opt/cni/bin
mount --make-rshared /
sysctl -qw net.ipv4.ip_forward=1
sysctl -qw net.ipv6.conf.all.forwarding=1
sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1 ||
  echo "without br_netfilter a pod that dials its own Service may get no answer"
touch "$directory/ready"
trap 'exit 0' TERM
while :; do
  sleep 1000 &
  wait $! || true
done
