# What the checks of this machine have at hand. A check is a file of
# `checks/`: it fails where a command fails, or by `fail WHY`;
# one that waits for what never comes is ended by its time limit.
export PATH=/payload/bin:/usr/bin:/bin:/usr/sbin:/sbin

# The manager that a sandbox of this user gets its scope from.
manager() {
    if [ "$(id -u)" = 0 ]; then systemctl "$@"; else systemctl --user "$@"; fi
}

fail() { echo "$*"; exit 1; }

# same WHAT FOUND WANTED
same() { [ "$2" = "$3" ] || fail "$1: \`$2\` instead of \`$3\`"; }

# has WHAT TEXT PART
has() { case $2 in *"$3"*) ;; *) fail "$1: no \`$3\` in: $2" ;; esac; }

# No scope of a sandbox is known to systemd and no group is left: systemd sees
# the end of the last process in one a moment after everybody else.
no_groups() {
    until [ -z "$(manager list-units --all --plain --no-legend 'sbx-*.scope')" ] &&
        [ -z "$(find /sys/fs/cgroup -name 'sbx-*')" ]; do :; done
}

# refused CODE COMMAND...: it must end so; what it said is in $said.
refused() {
    local wanted=$1 status=0
    shift
    said=$("$@" 2>&1) || status=$?
    [ "$status" = "$wanted" ] || fail "\`$*\` ended with $status instead of $wanted: $said"
}
