#!/bin/bash
# The first process of a node's own namespaces: whatever runs in them ends with it. Arguments: the work folder.
set -eu
work="$1"
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
  mkdir "/sys/fs/cgroup/$controller"
  mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
done
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
mount -t tmpfs -o mode=755 tmpfs /run
# The kubelet wants to set these for the whole machine; it gets copies that are only its own.
mkdir -p "$work/sysctl"
while read -r name value; do
  echo "$value" > "$work/sysctl/${name//\//_}"
  mount --bind "$work/sysctl/${name//\//_}" "/proc/sys/$name"
done <<'SETTINGS'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SETTINGS
mount --make-rshared /
hostname codebank
ip link set lo up
# A network card that leads nowhere: nothing here reaches another machine.
ip link add node0 type veth peer name node1
ip link set node1 up
ip addr add 10.77.0.1/24 dev node0
# The cluster's name server answers here.
ip addr add 10.96.0.10/32 dev node0
ip link set node0 up
ip route add default via 10.77.0.254 dev node0
sysctl -qw net.ipv4.ip_forward=1
sysctl -qw net.bridge.bridge-nf-call-iptables=1 || true
echo "nameserver 10.96.0.10" > "$work/resolv.conf"
touch "$work/ready"
# Whoever loses its parent becomes a child of this process; `wait` takes leave of it.
trap 'exit 0' TERM
while :; do sleep 3600 & wait "$!" || true; done
