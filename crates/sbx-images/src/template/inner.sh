# Builds the base root and its image. Runs as root of a user namespace that
# maps nobody of the host.
#
# usage: inner.sh SUITE PACKAGES [MMDEBSTRAP OPTION...]
set -eu
umask 022
suite=$1 packages=$2
shift 2
cd /mnt/work
rm -rf root tmp base.erofs
mkdir tmp
export TMPDIR=/mnt/work/tmp HOME=/nonexistent

start=$(date +%s)
mmdebstrap --mode=unshare --variant=minbase --format=directory --verbose \
    --include="$packages" "$@" \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    "$suite" /mnt/work/root - <sources.list

cd root
# What only this build knew: its proxy, its caches, its logs.
rm -f etc/apt/apt.conf.d/99mmdebstrap etc/resolv.conf etc/hostname
rm -f var/cache/ldconfig/aux-cache var/lib/dpkg/*-old var/cache/debconf/*-old etc/*-
rm -rf var/log/* var/cache/apt/* var/lib/apt/lists/* tmp/* run/* root/.cache
: >etc/machine-id
mkdir -p opt/sbx/kits
# Pages of manuals are left out, but packages that link some, as Java's do,
# are not installed where their directory is missing.
mkdir -p usr/share/man/man1
# sbx is the only way to become root inside; nothing else changes identity.
find . -xdev -type f -perm /6000 -exec chmod ug-s {} +
# Two builds of the same packages are the same: files that the build itself
# made carry one date, files of packages their own (Python compares those).
find . -xdev -newermt "@$((start - 1))" -exec touch -h -d @1700000000 {} +
cd ..

echo "sbx: making the image"
mkfs.erofs --quiet -T1700000000 --preserve-mtime \
    -U73627800-0000-4000-8000-000000000001 base.erofs root
echo "sbx: removing the tree"
rm -rf root tmp
