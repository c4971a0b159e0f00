"""A server of the host and its client in a sandbox; by the word in argv[1]."""

import base64
import os
import socket
import sys
import threading
import time
import urllib.parse

STREAM = 512 * 1024 * 1024
SECONDS = 3


def serve():
    """Says its port, and serves until its input ends: streams, requests of 1 KB, connections
    of one byte each way, by the first byte."""
    server = socket.create_server(("127.0.0.1", 0), backlog=1000)
    print(server.getsockname()[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True:
        threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()


def answer(one):
    with one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = one.recv(1)
        if kind == b"s":
            block = bytes(1024 * 1024)
            # Its last bytes are nobody's: not every proxy carries those of a stream that ends.
            for _ in range(STREAM // len(block) + 1):
                one.sendall(block)
        elif kind == b"r":
            while whole(one, 1024):
                one.sendall(bytes(1024))
        elif kind == b"c":
            one.sendall(b"c")


def whole(one, count):
    left = count
    while left > 0:
        some = one.recv(left)
        if not some:
            return False
        left -= len(some)
    return True


def connected(host, port):
    """A connection, by the proxy of the environment where there is one."""
    proxy = urllib.parse.urlsplit(os.environ.get("HTTP_PROXY", ""))
    one = socket.create_connection((proxy.hostname, proxy.port) if proxy.hostname else (host, port))
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if proxy.hostname:
        name = urllib.parse.unquote(f"{proxy.username}:{proxy.password}")
        name = base64.b64encode(name.encode()).decode()
        asked = f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        one.sendall(f"{asked}Proxy-Authorization: Basic {name}\r\n\r\n".encode())
        heard = b""
        while not heard.endswith(b"\r\n\r\n"):
            some = one.recv(1)
            if not some:
                raise OSError("the proxy hung up")
            heard += some
        if b" 200" not in heard.split(b"\r\n")[0]:
            raise OSError(heard)
    return one


def measure(host, port):
    """Prints MB/s of a stream, microseconds of a request, and connections a second."""
    # Asked for once: questions are bounded by themselves.
    host = socket.gethostbyname(host)
    with connected(host, port) as one:
        room = bytearray(1024 * 1024)
        one.sendall(b"s")
        begun, count = time.perf_counter(), 0
        while count < STREAM:
            some = one.recv_into(room)
            if some == 0:
                raise OSError(f"{count} bytes of {STREAM} came")
            count += some
        stream = count / 1e6 / (time.perf_counter() - begun)
    times = []
    with connected(host, port) as one:
        one.sendall(b"r")
        end = time.time() + SECONDS
        while time.time() < end:
            begun = time.perf_counter()
            one.sendall(bytes(1024))
            whole(one, 1024)
            times.append(time.perf_counter() - begun)
    begun, number = time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        with connected(host, port) as one:
            one.sendall(b"c")
            whole(one, 1)
        number += 1
    rate = number / (time.perf_counter() - begun)
    times.sort()
    print(stream, times[len(times) // 2] * 1e6, rate)


if sys.argv[1] == "serve":
    serve()
else:
    measure(sys.argv[2], int(sys.argv[3]))
