# What the checks of this machine have at hand. A check is a file of
# `checks/`: it fails where a command fails, or by `fail WHY`.
export PATH=/payload/bin:/usr/bin:/bin:/usr/sbin:/sbin

fail() { echo "$*"; exit 1; }

# same WHAT FOUND WANTED
same() { [ "$2" = "$3" ] || fail "$1: \`$2\` instead of \`$3\`"; }

# has WHAT TEXT PART
has() { case $2 in *"$3"*) ;; *) fail "$1: no \`$3\` in: $2" ;; esac; }

# refused CODE COMMAND...: it must end so; what it said is in $said.
refused() {
    local wanted=$1 status=0
    shift
    said=$("$@" 2>&1) || status=$?
    [ "$status" = "$wanted" ] || fail "\`$*\` ended with $status instead of $wanted: $said"
}
