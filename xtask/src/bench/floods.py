"""Servers on the host, floods and small requests of sandboxes; by the word in argv[1]."""

import itertools
import os
import select
import socket
import struct
import sys
import threading
import time

# What a sandbox calls the host, and how long requests are measured.
HOST = "host.sbx.internal"
SECONDS = 6


def on(number):
    """Said once a flood is in full course."""
    if number == 2000:
        print("on", flush=True)


def spin(_):
    """What a flood costs by itself: as busy, and nothing leaves."""
    for number in itertools.count():
        socket.socket().close()
        on(number)


def names(_):
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(64)]
    for number in itertools.count():
        query = struct.pack(">6H", number & 0xFFFF, 256, 1, 0, 0, 0)
        query += b"\x09n%08d\x07example\x00\x00\x01\x00\x01" % number
        sockets[number % 64].sendto(query, ("198.19.255.1", 53))
        on(number)


def denied(_):
    for number in itertools.count():
        with socket.socket() as one:
            one.setblocking(False)
            one.connect_ex(("10.0.0.1", 22))
        on(number)


def attempts(port):
    # Asked for once: questions are bounded by themselves.
    host = socket.gethostbyname(HOST)
    for number in itertools.count():
        with socket.socket() as one:
            # Reset at its end, since a port that waits cannot be used again.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("2i", 1, 0))
            one.connect((host, port))
        on(number)


def slow(port):
    held = []
    for number in itertools.count():
        if len(held) < 1000:
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((HOST, port))
            held.append(one)
        held[number % len(held)].recv(1)
        on(number)


def paced(port):
    """Small requests, one each 5 ms; prints how long 99 of 100 take at most, in microseconds."""
    stream = socket.create_connection((HOST, port))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times = []
    end = time.time() + SECONDS
    while time.time() < end:
        time.sleep(0.005)
        begun = time.perf_counter()
        stream.sendall(b"hello")
        stream.recv(16)
        times.append(time.perf_counter() - begun)
    times.sort()
    print(times[len(times) * 99 // 100] * 1e6)


def serve(apart):
    """Says the ports of a server that sends everything back, of another such one, and of one
    that never ends, and serves until its input ends. The first is a process of its own: what
    the floods cost the others is not the network's doing. Apart, it has the last processor,
    and the others the first."""
    back, other = (socket.create_server(("127.0.0.1", 0), backlog=1000) for _ in range(2))
    loud = socket.create_server(("127.0.0.1", 0), backlog=1000)
    print(*(one.getsockname()[1] for one in (back, other, loud)), flush=True)
    flooded = os.fork() == 0
    if apart:
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[0 if flooded else -1]})
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    if not flooded:
        return answers(back)
    threading.Thread(target=answers, args=(other,), daemon=True).start()
    return never_ends(loud)


def answers(server):
    def answer(one):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while some := one.recv(1024):
                one.sendall(some)
        except OSError:
            pass
        one.close()

    while True:
        threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()


def never_ends(server):
    waiting, streams = select.epoll(), {}
    server.setblocking(False)
    waiting.register(server, select.EPOLLIN)
    while True:
        for number, _ in waiting.poll():
            if number == server.fileno():
                one = server.accept()[0]
                one.setblocking(False)
                streams[one.fileno()] = one
                waiting.register(one, select.EPOLLOUT)
                continue
            try:
                streams[number].send(bytes(4096))
            except BlockingIOError:
                pass
            except OSError:
                waiting.unregister(number)
                streams.pop(number).close()


globals()[sys.argv[1]](int(sys.argv[2]) if len(sys.argv) > 2 else None)
