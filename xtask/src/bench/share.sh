# One round, inside the sandbox: each act in the share and on the own disk. Which comes first
# changes with the number of the round, $1: what the host has at hand helps whoever comes second.
set -eu
export GIT_AUTHOR_NAME=b GIT_AUTHOR_EMAIL=b@b.invalid GIT_COMMITTER_NAME=b GIT_COMMITTER_EMAIL=b@b.invalid

timed() {
    local what=$1 place=$2 begin end
    shift 2
    begin=$EPOCHREALTIME
    "$@" >/dev/null 2>&1
    end=$EPOCHREALTIME
    echo "$what $place $(((${end/./} - ${begin/./}) / 1000))"
}

forget() { sync; sudo sh -c 'echo 3 >/proc/sys/vm/drop_caches'; }

files() {
    git init -q "$1"
    for n in $(seq 1000); do echo "$n" >"$1/$n"; done
    git -C "$1" add .
    git -C "$1" commit -q -m all
}

places='share disk'
[ $(($1 % 2)) = 0 ] || places='disk share'
share=$PWD/round-$$
disk=$HOME/round-$$
mkdir "$share" "$disk"
trap 'rm -rf "$share" "$disk"' EXIT
for place in $places; do
    timed write $place dd if=/dev/zero of="${!place}/data" bs=1M count=64 conv=fsync
done
for place in $places; do
    forget
    timed read $place dd if="${!place}/data" of=/dev/null bs=1M
done
for place in $places; do
    timed make $place files "${!place}/tree"
done
for place in $places; do
    forget
    timed cold $place git -C "${!place}/tree" status
    timed warm $place git -C "${!place}/tree" status
done
