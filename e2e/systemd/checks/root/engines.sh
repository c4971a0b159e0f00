# Engines of the whole machine: Docker, and Podman by its socket.
trap 'systemctl stop docker.service docker.socket containerd.service podman.socket podman.service || true' EXIT
systemctl start docker.service
export DOCKER_HOST=unix:///run/docker.sock
contained 0 docker
systemctl stop docker.service docker.socket containerd.service
rm -f by-agent

systemctl start podman.socket
export DOCKER_HOST=unix:///run/podman/podman.sock
contained 0 podman
