# This is what it should be: an ordinary user's login on a host with systemd
# and version 2 alone, who may make no control group where the login runs.
same user "$(id -un):$(id -u)" user:1000
same hierarchy "$(stat -fc %T /sys/fs/cgroup)" cgroup2fs
own=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
has session "$own" /user.slice/user-1000.slice/session-
! mkdir "${own%/*}/made-by-hand" 2>/dev/null || fail "a group beside $own could be made by hand"
same manager "$(systemctl --user is-active default.target)" active
same ranges "$(sed -n 's/^user:[0-9]*://p' /etc/subuid /etc/subgid | sort -u)" 65536
