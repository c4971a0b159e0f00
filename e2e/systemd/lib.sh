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

# An image of a static program, for the engine whose client this is:
# tiny CLIENT...
tiny() {
    mkdir -p tree/bin
    cp /bin/busybox tree/bin/
    for name in sh id cat wget; do ln -sf busybox "tree/bin/$name"; done
    tar -C tree -c . | "$@" import - tiny:1 >/dev/null
}

# A sandbox with the engine that DOCKER_HOST names works in it, gets no
# further than it may, and leaves nothing with it: contained UID CLIENT...
contained() {
    local uid=$1 said
    shift
    tiny "$@"
    has doctor "$(sbx doctor 2>&1 || true)" 'isolation docker: works'
    echo 'on the host' >made
    python3 -m http.server --bind 127.0.0.1 --directory / 8001 >/dev/null 2>&1 & open=$!
    until curl -s --max-time 5 -o /dev/null http://127.0.0.1:8001/etc/hostname; do :; done
    # shellcheck disable=SC2016
    said=$(sbx run --isolation docker -t tiny:1 --memory 256m --network locked \
        --allow-network localhost:8001 --name contained shell -- -c 'id -u; cat made
            echo x >by-agent
            wget -q -O - http://host.sbx.internal:8001/etc/hostname
            wget -q -O - http://host.sbx.internal:8002/ 2>/dev/null || echo refused')
    kill $open
    same session "$said" "$uid"$'\n''on the host'$'\n'machine$'\n'refused
    same owner "$(stat -c %U by-agent)" "$(id -un)"
    sbx rm -f contained
    same containers "$("$@" ps -aq)" ''
}
