"""Joins a tap device (first argument) and a link on descriptor 0: the place
of QEMU in tests that run real clients in a network namespace."""

import fcntl
import os
import select
import socket
import struct
import sys

tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", sys.argv[1].encode(), 0x1002))
link = socket.socket(fileno=os.dup(0))
os.set_blocking(tap, False)
link.setblocking(True)
print("up", flush=True)
poll = select.poll()
poll.register(tap, select.POLLIN)
poll.register(link, select.POLLIN)
while True:
    for fd, _ in poll.poll():
        if fd == tap:
            for _ in range(64):
                try:
                    frame = os.read(tap, 65600)
                except BlockingIOError:
                    break
                link.send(frame)
        else:
            frame = link.recv(1 << 17)
            if not frame:
                sys.exit(0)
            os.write(tap, frame)
