"""What AppArmor has to deny where it is the only defence: run by an ordinary user, on the host.

The program prints for each attempt ``through`` or the name of the errno.
"""

ATTACKS = r'''
import ctypes, errno, json, os, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNS, NEWNET = 0x10000000, 0x20000, 0x40000000

def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")

def in_namespace(action, flags=0):
    """In a child with a user namespace of its own, where it has every capability."""
    def run():
        read, write = os.pipe()
        if os.fork() == 0:
            try:
                call(libc.unshare(NEWUSER | NEWNS | flags))
                action()
                number = 0
            except OSError as error:
                number = error.errno
            os.write(write, number.to_bytes(2, "little"))
            os._exit(0)
        os.wait()
        number = int.from_bytes(os.read(read, 2), "little")
        if number:
            raise OSError(number, "")
    return run

def opened(path, flags=os.O_RDONLY):
    return lambda: os.close(os.open(path, flags))

def memory_program():
    fd = os.memfd_create("program")
    with open("/usr/bin/true", "rb") as file:
        os.write(fd, file.read())
    subprocess.run([f"/proc/self/fd/{fd}"], pass_fds=[fd], check=True)

shm = f"/dev/shm/attack-{os.getpid()}"
with open("/usr/bin/true", "rb") as source, open(shm, "wb") as target:
    target.write(source.read())
os.chmod(shm, 0o755)
def other_process():
    """A process of this user under no label: systemd --user."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with open(f"/proc/{pid}/comm") as file:
            if file.read() == "systemd\n" and os.stat(f"/proc/{pid}").st_uid == os.getuid():
                return int(pid)
    raise SystemExit("no systemd --user")

attempts = {
    "signal another process": lambda: os.kill(other_process(), 0),
    "look into another process": lambda: os.readlink(f"/proc/{other_process()}/cwd"),
    "mount": in_namespace(lambda: call(libc.mount(b"x", b"/mnt", b"tmpfs", 0, None))),
    "bind": in_namespace(lambda: call(libc.mount(b"/usr", b"/mnt", None, 0x1000, None))),
    "pivot": in_namespace(lambda: call(libc.chroot(b"/usr"))),
    "open a packet socket": in_namespace(
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(), NEWNET),
    "open a raw socket": in_namespace(
        lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(), NEWNET),
    "use the kernel's ciphers": lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close(),
    "read sysfs": opened("/sys/kernel/uevent_seqnum"),
    "write an id map": opened("/proc/self/uid_map", os.O_WRONLY),
    "change the label": opened("/proc/self/attr/current", os.O_WRONLY),
    "read the session's sockets": lambda: os.listdir("/run/user/1000"),
    "read another device": opened("/dev/ptmx", os.O_RDWR),
    "execute from shared memory": lambda: subprocess.run([shm], check=True),
    "execute from a memory file": memory_program,
    "become root": lambda: subprocess.run(["sudo", "-n", "true"], check=True,
                                          stderr=subprocess.DEVNULL),
}
answers = {}
for name, attempt in attempts.items():
    try:
        attempt()
        answers[name] = "through"
    except OSError as error:
        answers[name] = errno.errorcode.get(error.errno, str(error.errno))
    except subprocess.CalledProcessError:
        answers[name] = "EPERM"
os.unlink(shm)
print(json.dumps(answers))
'''
