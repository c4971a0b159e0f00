# A hog of memory, one of the processor and a bomb of processes end at the
# limit; the sandbox answers afterwards, and the host never noticed.
trap 'sbx rm -f hogs' EXIT
sbx create --isolation container --memory 512m --cpus 1 --pids-limit 200 --name hogs shell .
sbx exec hogs true
group=$(find /sys/fs/cgroup/user.slice -name 'sbx-hogs-*.scope')
alive() { same "after $1" "$(sbx exec hogs echo alive)" alive; }

status=0
sbx exec hogs sh -c 'head -c 1G /dev/zero | tail >/dev/null' || status=$?
[ "$status" != 0 ] || fail 'the hog of memory was not stopped'
[ "$(sed -n 's/^oom_kill //p' "$group/memory.events")" -gt 0 ] || fail "nobody was killed: $(cat "$group/memory.events")"
alive 'the hog of memory'

count=$(sbx exec hogs python3 -c '
import os, time
n = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600)
        n += 1
except OSError:
    print(n, flush=True)
os.kill(0, 9)' || true)
[ "$count" -ge 50 ] && [ "$count" -le $((200 + 128 + 8)) ] || fail "the bomb made $count processes"
alive 'the bomb'

# Two that compute all the time have one processor together: of each tenth of
# a second of this machine's two, one tenth.
stat() { sed -n "s/^$1 //p" "$group/cpu.stat"; }
sbx exec -d hogs sh -c 'yes >/dev/null & yes >/dev/null'
throttled=$(stat nr_throttled)
until [ "$(stat nr_throttled)" -gt "$throttled" ]; do :; done
from=$(stat usage_usec) periods=$(stat nr_periods)
until [ "$(stat nr_periods)" -gt $((periods + 30)) ]; do :; done
used=$(($(stat usage_usec) - from)) share=$((($(stat nr_periods) - periods) * 100000))
[ $used -le $((share * 5 / 4)) ] || fail "used $used of $share microseconds"
alive 'the hog of the processor'
