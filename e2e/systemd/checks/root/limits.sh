# Root's containers are held by a scope of the host's own systemd, and none of
# their processes is the host's root.
trap 'sbx rm -f held 2>/dev/null || true' EXIT
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
has session "$own" /user.slice/user-0.slice/session-
sbx create --isolation container --memory 512m --cpus 0.5 --pids-limit 300 --name held shell .
same identity "$(sbx exec held sudo id -u)" 0
scope=$(manager list-units --plain --no-legend 'sbx-held-*.scope' | cut -d ' ' -f 1)
[ -n "$scope" ] || fail "no scope: $(sbx inspect held)"
group=/sys/fs/cgroup$(manager show --value --property ControlGroup "$scope")
has 'place of the group' "$group" /system.slice/sbx-held-
[ "$(cat "$group/memory.max")" -le $(((512 + 128) << 20)) ] || fail "memory: $(cat "$group/memory.max")"
same processor "$(cat "$group/cpu.max")" '50000 100000'
[ "$(cat "$group/pids.max")" -le $((300 + 128 + 8)) ] || fail "processes: $(cat "$group/pids.max")"
has 'who holds it' "$(sbx inspect held)" "by systemd as $scope"
inside=$(pgrep -f 'sbx-guest contained' | head -n 1)
grep -qx "$inside" "$group/cgroup.procs" || fail "$inside is outside of $group"
[ "$(stat -c %u "/proc/$inside")" != 0 ] || fail "$inside is the root of the host"
# A manager that reads its configuration again leaves limits alone.
manager daemon-reload
same 'processor after a reload' "$(cat "$group/cpu.max")" '50000 100000'
status=0
sbx exec held sh -c 'head -c 1G /dev/zero | tail >/dev/null' || status=$?
[ "$status" != 0 ] || fail 'the hog of memory was not stopped'
same 'after the hog' "$(sbx exec held echo alive)" alive
sbx rm -f held
no_groups
