# Runs as root of a mount and process namespace: the host's root, or the
# caller's own user namespace. Gives the rest of its arguments, a command,
# one more user namespace in which neither the host's root nor the caller
# exists, and WORK as /mnt/work.
#
# usage: outer.sh WORK BASE COUNT RESULT COMMAND...
set -eu
work=$1 base=$2 count=$3 result=$4
shift 4

mount -t proc proc /proc
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/work
mount --bind "$work" /mnt/work
chown "$base:$base" /mnt/work

# A namespace needs its map before anything in it can be root, and only a
# process outside may write it.
unshare --user sleep infinity &
holder=$!
own=$(readlink /proc/self/ns/user)
while [ "$(readlink "/proc/$holder/ns/user")" = "$own" ]; do sleep 0.01; done
echo "0 $base $count" >"/proc/$holder/uid_map"
echo "0 $base $count" >"/proc/$holder/gid_map"

nsenter --user="/proc/$holder/ns/user" -S 0 -G 0 -- \
    unshare --mount --pid --fork --kill-child -- "$@"

chown 0:0 /mnt/work
if [ -n "$result" ]; then chown 0:0 "/mnt/work/$result"; fi
