# A container of this user does what a machine does: identity, owners, network.
python3 -m http.server --bind 127.0.0.1 --directory / 8001 >/dev/null 2>&1 & open=$!
python3 -m http.server --bind 127.0.0.1 --directory / 8002 >log 2>&1 & shut=$!
trap 'kill $open $shut; sbx rm -f box' EXIT
# shellcheck disable=SC2016
sbx run --isolation container --name box --network locked --allow-network localhost:8001 shell \
    -- -c 'id -un; id -u; sudo id -u; pwd; echo x >made; sudo touch by-root' >said
same identity "$(cat said)" "agent"$'\n'"1000"$'\n'"0"$'\n'"$PWD"
same owner "$(stat -c %U made)" user
# A file server has it be the user's; a mere mount, an id of the container.
same by-root "$(stat -c %U by-root)" user
sbx run --rm --isolation container --workspace-guard existing --network none --name bare shell \
    -- -c 'sudo touch by-mount'
[ "$(stat -c %u by-mount)" -ge 100000 ] || fail "by-mount belongs to $(stat -c %u by-mount)"
refused 3 sbx exec box sh -c 'exit 3'
# A server is up when it answers on the host.
for port in 8001 8002; do
    until curl -s --max-time 5 -o /dev/null "http://127.0.0.1:$port/etc/hostname"; do :; done
done
same allowed "$(sbx exec box curl -s --max-time 60 http://host.sbx.internal:8001/etc/hostname)" machine
visits=$(grep -c GET log)
answer=$(sbx exec box curl -s --max-time 60 http://host.sbx.internal:8002/etc/hostname || true)
! [[ $answer = *machine* ]] || fail "a denied server answered: $answer"
same 'visits of the denied server' "$(grep -c GET log)" "$visits"
