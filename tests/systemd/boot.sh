#!/bin/bash
# boot.sh DIR [BASE]: run in fresh namespaces by lab.py. Stacks an overlay over BASE (/) and starts the systemd that is
# there as process 1 in it.
#
# DIR/tree    files that appear over / (copied before the overlay is mounted: changing it later is undefined)
# DIR/binds   lines "SOURCE TARGET": read-only views of directories that live on other mounts or behind a closed home
# DIR/ov      where the overlay is mounted, in memory
set -euo pipefail
dir=$1
base=${2:-/}
ov=$dir/ov
root=$ov/root

mkdir -p "$ov"
mount -t tmpfs -o size=2g,mode=755 lab "$ov"
mkdir "$ov/upper" "$ov/work" "$root"
chmod 755 "$ov/upper"
cp -a "$dir/tree/." "$ov/upper/"
mount -t overlay lab -o "lowerdir=$base,upperdir=$ov/upper,workdir=$ov/work" "$root"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 dev "$root/dev"
for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
while read -r source target; do
    mkdir -p "$root$target"
    mount --bind "$source" "$root$target"
    mount -o remount,ro,bind "$root$target"
done <"$dir/binds"

# systemd 252 fails sandboxed user units with 226/NAMESPACE when /run/credentials is missing.
mkdir -p "$root/run/systemd/system" "$root/run/credentials" "$root/run/user"
# The smallest target that has a journal and a bus. No service pulls in sysinit.target, which would apply the
# machine's own sysctls, kernel modules, mounts and swap.
for type in service socket; do
    mkdir -p "$root/run/systemd/system/$type.d"
    printf '[Unit]\nDefaultDependencies=no\n' >"$root/run/systemd/system/$type.d/lab.conf"
done
cat >"$root/run/systemd/system/lab.target" <<'UNIT'
[Unit]
DefaultDependencies=no
Wants=systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service dbus.socket
UNIT

ip link set lo up
hostname lab
cd "$root"
mkdir -p run/old
pivot_root . run/old
umount -l /run/old
exec env -i container=sttd-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=lab.target --log-target=journal-or-kmsg --show-status=no
