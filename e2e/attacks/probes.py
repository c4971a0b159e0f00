"""Acts that a sandbox must not be able to do, each tried in a process of its own.

Usage: probes.py PROBE...  where a PROBE is `ID ACT OBJECT`, of which the last
may be empty. Prints `ID did` or `ID refused WHY` for each. The same acts are
called where they are allowed, which shows that they would have done it.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import sys
import tempfile

LIBC = ctypes.CDLL(None, use_errno=True)
DENIED = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
BUFFER = ctypes.create_string_buffer(4096)


def failed():
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def kernel(number, *arguments):
    """A system call, its numbers as wide as the kernel reads them."""
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    ctypes.set_errno(0)
    return LIBC.syscall(ctypes.c_long(number), *wide)


def call(number, *arguments):
    """One that has to succeed."""
    result = kernel(number, *arguments)
    if result < 0:
        failed()
    return result


def reached(number, *arguments):
    """One whose arguments are wrong: it did what matters if the kernel got to them."""
    if kernel(number, *arguments) < 0 and ctypes.get_errno() in DENIED:
        failed()


def mounted(source, target, kind, flags=0, data=None):
    """Mounts, and takes it away again."""
    if LIBC.mount(source, target, kind, flags, data) != 0:
        failed()
    LIBC.umount2(target, 2)


def spare():
    return tempfile.mkdtemp().encode()


def below(directory):
    return tempfile.mktemp(dir=directory or None)


# --- files ------------------------------------------------------------------


def reads(path):
    with open(path, "rb") as file:
        if file.read(1) == b"":
            raise OSError(errno.ENODATA, "it is empty")


def opens(path):
    """To read, without waiting for what never comes."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if os.fstat(file).st_rdev == os.makedev(1, 3):
        raise OSError(errno.ENODATA, "it is /dev/null")


def writes(path):
    """Opens to write and writes nothing: whoever could do the one could do the other."""
    file = os.open(path, os.O_WRONLY)
    if os.fstat(file).st_rdev == os.makedev(1, 3):
        raise OSError(errno.ENODATA, "it is /dev/null")


def lists(path):
    if not os.listdir(path):
        raise OSError(errno.ENODATA, "it is empty")


def finds(path):
    os.stat(path)


def follows(path):
    os.readlink(path)


def connects(path):
    if path == "own":
        path = tempfile.mktemp()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
    name = "\0" + path[1:] if path.startswith("@") else path
    socket.socket(socket.AF_UNIX).connect(name)


def dials(address):
    host, port = address.rsplit(",", 1)
    socket.create_connection((host, int(port)), 5).close()


# --- devices and set-user-ID ------------------------------------------------


def makes_device(what):
    kind, major, minor, directory = what.split(",")
    path = below(directory)
    kinds = {"b": stat.S_IFBLK, "c": stat.S_IFCHR}
    os.mknod(path, kinds[kind] | 0o600, os.makedev(int(major), int(minor)))
    os.unlink(path)


def marks(how):
    """Gives a file one of the bits that let a program run as its owner or group."""
    way, directory = how.split(",")
    path = below(directory)
    bit = 0o2000 if way == "group" else 0o4000
    mode = 0o755 | bit
    try:
        if way in ("chmod", "group", "fchmod", "fchmodat2"):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
        if way in ("chmod", "group"):
            os.chmod(path, mode)
        elif way == "fchmod":
            os.fchmod(os.open(path, os.O_RDONLY), mode)
        elif way == "fchmodat2":
            call(452, -100, path.encode(), mode, 0)
        elif way == "open":
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))
        elif way == "creat":
            call(85, path.encode(), mode)
        elif way == "openat2":
            rules = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, mode, 0)
            call(437, -100, path.encode(), rules, 24)
        elif way == "mknod":
            os.mknod(path, stat.S_IFREG | mode)
        if os.stat(path).st_mode & bit == 0:
            raise OSError(errno.EPERM, "the bit is not there")
    finally:
        if os.path.exists(path):
            os.unlink(path)


# --- mounts and namespaces --------------------------------------------------


def mounts(kind):
    mounted(b"none", spare(), kind.encode())


def binds(path):
    mounted(path.encode(), spare(), None, 4096)


def binds_a_link(path):
    link = tempfile.mktemp().encode()
    os.symlink(path, link)
    mounted(link, spare(), None, 4096)


def uncovers(path):
    """Takes away a mount of somebody else's; where it is allowed, of its own."""
    if path == "own":
        path = spare().decode()
        if LIBC.mount(b"none", path.encode(), b"tmpfs", 0, None) != 0:
            failed()
    if LIBC.umount2(path.encode(), 2) != 0:
        failed()


def makes_writable(path):
    path = (path or spare().decode()).encode()
    if LIBC.mount(path, path, None, 4096, None) != 0:
        failed()
    if LIBC.mount(None, path, None, 4096 | 32, None) != 0:
        failed()


def unshares(flag):
    call(272, int(flag, 16))


def enters(path):
    call(308, os.open(path, os.O_RDONLY), 0)


def clones(flag):
    child = kernel(56, int(flag, 16) | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child < 0:
        failed()
    os.waitpid(child, 0)


def clones_anew(flag):
    """By clone3, whose flags no filter sees."""
    rules = (ctypes.c_uint64 * 11)(int(flag, 16), 0, 0, 0, signal.SIGCHLD)
    child = kernel(435, rules, 88)
    if child == 0:
        os._exit(0)
    if child < 0:
        failed()
    os.waitpid(child, 0)


def pivots(_):
    reached(155, b"/nowhere", b"/nowhere")


# --- other processes --------------------------------------------------------


def sleeper():
    """A child that waits to be looked into."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    return child


def of(pid):
    return sleeper() if pid == "own" else int(pid)


def ended(pid, asked):
    if asked == "own":
        os.kill(pid, signal.SIGKILL)


def traces(asked):
    pid = of(asked)
    try:
        if LIBC.ptrace(0x4206, pid, 0, 0) != 0:
            failed()
    finally:
        ended(pid, asked)


def looks_into(asked):
    pid = of(asked)
    try:
        with open(f"/proc/{'self' if asked == 'own' else pid}/maps") as maps:
            start = int(maps.readline().split("-")[0], 16)
        here = (ctypes.c_uint64 * 2)(ctypes.addressof(BUFFER), 16)
        there = (ctypes.c_uint64 * 2)(start, 16)
        call(310, pid, here, 1, there, 1, 0)
    finally:
        ended(pid, asked)


def takes_descriptor(asked):
    pid = of(asked)
    try:
        call(438, call(434, pid, 0), 0, 0)
    finally:
        ended(pid, asked)


def signals(asked):
    pid = of(asked)
    try:
        os.kill(pid, 0)
    finally:
        ended(pid, asked)


def has_descriptors(opened):
    if opened:
        os.open("/dev/null", os.O_RDONLY)
    # Beside the three: the list itself, and the pipe to who tells.
    if len(os.listdir("/proc/self/fd")) <= 5:
        raise OSError(errno.ENODATA, "nothing but the three")


def dumps_core(_):
    before = resource.getrlimit(resource.RLIMIT_CORE)
    wanted = 0 if before[0] != 0 else 4096
    resource.setrlimit(resource.RLIMIT_CORE, (wanted, before[1]))
    if resource.getrlimit(resource.RLIMIT_CORE)[0] != wanted:
        raise OSError(errno.EPERM, "the limit stays")


def spares_itself(_):
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-900")


# --- the network ------------------------------------------------------------


def opens_socket(kind):
    family, sort, protocol = (int(part) for part in kind.split(","))
    socket.socket(family, sort, protocol).close()


def wraps_tcp(_):
    """Asks for a protocol above TCP in the kernel, of a name that none has."""
    try:
        socket.socket().setsockopt(6, 31, b"none")
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def asks_netlink(kind):
    """A request of rtnetlink that changes something: 16 a link, 20 an address, 24 a route."""
    wires = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    wires.bind((0, 0))
    kind = int(kind)
    body = {
        16: struct.pack("=BxHiII", 0, 0, 1, 1, 1),
        20: struct.pack("=BBBBI", 2, 32, 0, 0, 1) + struct.pack("=HH4s", 8, 2, b"\xc0\x00\x02\x07"),
        24: struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 4, 253, 1, 0)
        + struct.pack("=HH4s", 8, 1, b"\xc0\x00\x02\x09")
        + struct.pack("=HHI", 8, 4, 1),
    }[kind]
    flags = 0x5 if kind == 16 else 0x605
    wires.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
    number = -struct.unpack_from("=i", wires.recv(4096), 16)[0]
    if number:
        raise OSError(number, os.strerror(number))


def sets_up_interface(_):
    """Makes an interface of its own."""
    fcntl.ioctl(os.open("/dev/net/tun", os.O_RDWR), 0x400454CA, struct.pack("16sH22x", b"x%d", 2))


# --- the kernel -------------------------------------------------------------


def changes_terminal(_):
    """Gives a terminal of its own another line discipline: the one that does nothing."""
    fcntl.ioctl(os.openpty()[1], 0x5423, struct.pack("i", 27))


def controls(number):
    """A request to a file system, to none that knows it."""
    try:
        fcntl.ioctl(os.open(spare(), os.O_RDONLY), int(number, 16), bytes(1024))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise


def calls(what):
    """A call that is not for programs, with arguments that do nothing."""
    nothing = (-1, 0, 0, 0, 0, 0)
    number, arguments = {
        "bpf": (321, (0, BUFFER, 0)),
        "perf": (298, (0, 0, -1, -1, 0)),
        "io_uring": (425, (0, 0)),
        "aio": (206, (0, 0)),
        "userfaultfd": (323, (0xFFFF,)),
        "add_key": (248, (b"user", b"k", b"v", 1, -2)),
        "request_key": (249, (b"user", b"none", 0, 0)),
        "keyctl": (250, (0, -2, 1)),
        "swapon": (167, (b"/nowhere", 0)),
        "reboot": (169, (0, 0, 0, 0)),
        "quota": (179, (0x800002, b"/nowhere", 0, 0)),
        "settime": (227, (0, 0)),
        "adjtime": (305, (0, 0)),
        "syslog": (103, (3, BUFFER, 16)),
        "by_handle": (304, (-100, BUFFER, 0)),
        "handle": (303, (-100, b"/", BUFFER, BUFFER, 0)),
        "fanotify": (300, (0, 0)),
        "vhangup": (153, ()),
        "open_tree": (428, (-100, b"/", 1)),
        "fsopen": (430, (b"tmpfs", 0)),
        "fspick": (433, (-100, b"/", 0)),
        "move_mount": (429, (-1, b"", -1, b"", 0)),
        "mount_setattr": (442, (-100, b"/nowhere", 0, BUFFER, 32)),
        "sethostname": (170, (0, 1)),
        "setdomainname": (171, (0, 1)),
        "kcmp": (312, (1, 1, 0, 0, 0)),
        "migrate_pages": (256, (0, 0, 0, 0)),
        "modify_ldt": (154, (0, 0, 0)),
    }[what]
    reached(number, *(arguments + nothing)[:6])


def enters_by_the_old_gate(number):
    """Makes namespaces by the gate of 32-bit programs, whose calls have other numbers."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # push rbx; mov eax, edi; mov ebx, esi; int 0x80; pop rbx; ret
    page.write(bytes.fromhex("53 89f8 89f3 cd80 5b c3"))
    gate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)
    result = gate(ctypes.addressof(ctypes.c_char.from_buffer(page)))(int(number), 0x10000000)
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def attempt(act, thing):
    """What came of it, in a word: in a child, which may not come back."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(20)
        try:
            act(thing)
            said = "did"
        except (OSError, ValueError) as error:
            said = f"refused {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    said = b""
    while part := os.read(reader, 4096):
        said += part
    os.close(reader)
    os.waitpid(child, 0)
    return said.decode() or "refused by its end"


for probe in sys.argv[1:]:
    name, verb, thing = probe.split(" ", 2)
    print(name, attempt(globals()[verb], thing), flush=True)
