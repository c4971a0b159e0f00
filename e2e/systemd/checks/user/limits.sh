# Limits of an ordinary user's container are held by a scope of systemd, which
# goes away with it; where systemd cannot be asked they are refused.
trap 'systemctl --user start dbus.socket; sbx rm -f held free 2>/dev/null || true' EXIT
ask=(--isolation container --memory 512m --cpus 0.5 --pids-limit 300)
sbx create "${ask[@]}" --name held shell .
sbx exec held true
scope=$(systemctl --user list-units --plain --no-legend 'sbx-held-*.scope' | cut -d ' ' -f 1)
[ -n "$scope" ] || fail "no scope: $(sbx inspect held)"
group=/sys/fs/cgroup$(systemctl --user show --value --property ControlGroup "$scope")
same delegated "$(systemctl --user show --value --property Delegate "$scope")" yes
has 'place of the group' "$group" /user.slice/user-1000.slice/user@1000.service/
[ "$(cat "$group/memory.max")" -le $(((512 + 128) << 20)) ] || fail "memory: $(cat "$group/memory.max")"
same processor "$(cat "$group/cpu.max")" '50000 100000'
[ "$(cat "$group/pids.max")" -le $((300 + 128 + 8)) ] || fail "processes: $(cat "$group/pids.max")"
# All of it is in there: supervisor, network, and what runs inside.
for part in 'sbx supervise' 'sbx net' 'sbx-guest contained'; do
    for pid in $(pgrep -f "$part"); do
        grep -qx "$pid" "$group/cgroup.procs" || fail "$part ($pid) is outside of $group"
    done
done
known=$(sbx inspect held)
for limit in memory processors tasks; do has 'who holds it' "$known" "$limit"; done
has 'who holds it' "$known" "by systemd as $scope"
# A manager that reads its configuration again leaves limits alone.
systemctl --user daemon-reload
same 'processor after a reload' "$(cat "$group/cpu.max")" '50000 100000'
sbx stop held
no_groups
# A killed supervisor leaves none either.
sbx exec held true
kill -KILL "$(pgrep -f 'sbx supervise')"
sbx rm -f held
no_groups

sbx create "${ask[@]}" --name held shell .
systemctl --user stop dbus.socket dbus.service
# Neither does one start that was made while somebody held it.
refused 125 sbx exec held true
has 'why it is refused' "$said" 'systemd cannot be asked'
sbx rm -f held
for limit in '--memory 512m' '--cpus 1' '--pids-limit 300'; do
    # shellcheck disable=SC2086
    refused 125 sbx run --isolation container $limit --name held shell -- -c true
    has 'why it is refused' "$said" 'systemd cannot be asked'
done
# The twin: what was not asked for is only warned of.
sbx run --isolation container --name free shell -- -c 'echo ran' >said 2>warned
same 'without limits' "$(cat said)" ran
has warning "$(cat warned)" 'systemd cannot be asked'
