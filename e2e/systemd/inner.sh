# Installs the machine's root and makes its disk. Runs as root of a user
# namespace that maps nobody of the host, with /mnt/work its own.
#
# usage: inner.sh SUITE PACKAGES [MMDEBSTRAP OPTION...]
set -eu
umask 022
suite=$1 packages=$2
shift 2
cd /mnt/work
rm -rf root tmp disk.ext4
mkdir tmp
export TMPDIR=$PWD/tmp HOME=/nonexistent
mmdebstrap --mode=unshare --variant=minbase --format=directory --include="$packages" "$@" \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    "$suite" "$PWD/root" - <sources.list

cd root
rm -rf etc/apt/apt.conf.d/99mmdebstrap var/cache/apt/* var/lib/apt/lists/* tmp/* etc/resolv.conf
echo machine >etc/hostname
printf '127.0.0.1 localhost machine\n' >etc/hosts
: >etc/machine-id
printf '/dev/vdb /payload erofs ro 0 0\n' >etc/fstab
mkdir payload
# As distributions make an ordinary user: ranges of ids with it. The session
# is one like that of a login; what runs in it may do what its user may.
chroot . useradd --create-home --shell /bin/bash --uid 1000 user
grep -q '^user:' etc/subuid || { echo 'user has no range of ids' >&2; exit 1; }
cat >etc/systemd/system/checks@.service <<'UNIT'
[Unit]
Description=The checks of the payload, in a session of %I
After=multi-user.target systemd-logind.service dev-virtio\x2dports-checks.%i.device
Wants=dev-virtio\x2dports-checks.%i.device
RequiresMountsFor=/payload
FailureAction=reboot-force

[Service]
Type=oneshot
User=%I
PAMName=login
WorkingDirectory=~
StandardInput=null
StandardOutput=file:/dev/virtio-ports/checks.%i
StandardError=inherit
TimeoutStartSec=infinity
ExecStart=/payload/run

[Install]
WantedBy=default.target
UNIT
# One after the other, and then the machine has done its work.
mkdir -p etc/systemd/system/default.target.wants etc/systemd/system/checks@root.service.d
ln -s ../checks@.service etc/systemd/system/default.target.wants/checks@user.service
ln -s ../checks@.service etc/systemd/system/default.target.wants/checks@root.service
printf '[Unit]\nAfter=checks@user.service\nSuccessAction=reboot-force\n' \
    >etc/systemd/system/checks@root.service.d/last.conf
# Nothing here waits for a terminal or a clock.
for unit in getty@tty1.service serial-getty@ttyS0.service systemd-timesyncd.service \
    systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done
# Engines start where a check starts them, and touch no network.
for unit in containerd.service docker.service docker.socket podman.service podman.socket \
    podman-auto-update.service podman-auto-update.timer podman-restart.service; do
    rm -f etc/systemd/*/*.wants/"$unit"
done
mkdir -p etc/docker
echo '{ "bridge": "none", "iptables": false, "ip6tables": false, "ip-masq": false }' \
    >etc/docker/daemon.json
cd ..

# Sparse: what the user's cache and sandboxes will take.
truncate -s 12G disk.ext4
mkfs.ext4 -q -d root -E lazy_itable_init=1,lazy_journal_init=1 -O ^has_journal disk.ext4
rm -rf root tmp
