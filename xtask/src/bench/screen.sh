# The smallest init that gives the agent what it has in a sandbox: its own writable layer over the
# template, its program, an account and a terminal. No network, no workspace, no walls.
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t ext4 -o noatime /dev/vdb /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay -o noatime,lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work root /media
cd /media
mkdir -p opt/sbx/kits/claude home/agent/app
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devtmpfs dev
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs run run
mount -t erofs -o ro /dev/vdc opt/sbx/kits/claude
# As with `--network none`: names are refused at once. Without loopback the agent may never draw.
ip link set lo up
echo nameserver 127.0.0.1 >etc/resolv.conf
cat >home/agent/.claude.json <<'JSON'
{"hasCompletedOnboarding": true, "theme": "dark", "bypassPermissionsModeAccepted": true,
"customApiKeyResponses": {"approved": ["KEY-END"], "rejected": []},
"projects": {"/home/agent/app": {"hasTrustDialogAccepted": true}}}
JSON
chown -R 1000:1000 home/agent
ca=/etc/ssl/certs/ca-certificates.crt
path=/home/agent/.local/bin:/opt/sbx/kits/claude/bin:/usr/local/bin:/usr/bin:/bin
exec setsid -c -w chroot . setpriv --reuid=1000 --regid=1000 --clear-groups env -i \
    HOME=/home/agent USER=agent LOGNAME=agent SHELL=/bin/bash TERM=xterm-256color LANG=C.UTF-8 \
    TZ=Etc/UTC PATH=$path SANDBOX_NAME=bare IS_SANDBOX=1 DISABLE_AUTOUPDATER=1 \
    NODE_EXTRA_CA_CERTS=$ca SSL_CERT_FILE=$ca REQUESTS_CA_BUNDLE=$ca PIP_CERT=$ca \
    ANTHROPIC_API_KEY=KEY \
    sh -c 'cd /home/agent/app && stty rows 40 cols 120 && exec claude' <>/dev/hvc0 >&0 2>&1
