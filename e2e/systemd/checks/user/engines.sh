# Engines of an ordinary user: Podman by its socket, Docker in a namespace of
# the user's own. What they have with them is this user's.
trap 'systemctl --user stop podman.socket podman.service docker-rootless.service || true' EXIT
systemctl --user start podman.socket
export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/podman/podman.sock
contained 0 podman
systemctl --user stop podman.socket podman.service
rm -f by-agent

rootless=/usr/share/docker.io/contrib/dockerd-rootless.sh
systemd-run --user --quiet --unit docker-rootless.service --property Delegate=yes \
    --setenv PATH="$PATH" --setenv DOCKERD_ROOTLESS_ROOTLESSKIT_NET=host \
    --setenv DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER=none \
    "$rootless" --bridge=none --iptables=false --ip6tables=false --ip-masq=false --ip-forward=false
export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/docker.sock
until docker version >/dev/null 2>&1; do
    systemctl --user is-active --quiet docker-rootless.service ||
        fail "$(journalctl --user -u docker-rootless.service)"
done
contained 0 docker
