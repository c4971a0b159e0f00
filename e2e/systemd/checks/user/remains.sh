# Nothing is left of a sandbox that was used and removed.
before=$(ps -u user -o args= | grep -c '[s]bx' || true)
same 'sandboxes of earlier checks' "$before" 0
mounts=$(cat /proc/self/mounts)
sbx run --isolation container --name gone shell -- -c 'sudo touch made; true'
sbx rm -f gone
same processes "$(ps -u user -o args= | grep '[s]bx' || true)" ''
same mounts "$(cat /proc/self/mounts)" "$mounts"
no_groups
same records "$(find "$HOME/.local/state/sbx" -name gone)" ''
same links "$(ip -brief link | grep -cv '^lo')" 0
