"""How much of an argument register the kernel looks at.

A filter sees 64 bits, but ``ioctl(2)`` takes its command as an ``unsigned int``: a rule that
compares the whole register lets ``TIOCSTI | 1 << 32`` pass (CVE-2019-10063 and its relatives).
Below is what each system call's definition in the kernel declares; an argument that isn't listed
is compared in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from hardrun.kernel.seccomp.tables import Abi

_INT = 0xFFFFFFFF
_UMODE = 0xFFFF  # umode_t is an unsigned short: S_IFMT and the permission bits

# int, unsigned int, id_t, clockid_t, socklen_t, key_serial_t … : 32 bits.
_THIRTY_TWO = """
accept 0  accept4 0 3  arch_prctl 0  bind 0 2  bpf 0 2  chown 1 2  chown32 1 2  clock_adjtime 0
clock_getres 0  clock_gettime 0  clock_nanosleep 0 1  clock_settime 0  close 0  close_range 0 1 2
connect 0 2  copy_file_range 0 2 5  delete_module 1  dup 0  dup2 0 1  dup3 0 1 2  epoll_create 0
epoll_create1 0  epoll_ctl 0 1 2  eventfd 0  eventfd2 0 1  execveat 0 4  exit 0  exit_group 0
faccessat 0 2  faccessat2 0 2 3  fadvise64 0 3  fallocate 0 1  fanotify_init 0 1
fanotify_mark 0 1 3  fchdir 0  fchmod 0  fchmodat 0  fchmodat2 0 3  fchown 0 1 2  fchownat 0 2 3 4
fcntl 0 1  fcntl64 0 1  fdatasync 0  finit_module 0 2  flistxattr 0  flock 0 1  fsconfig 0 1 4
fsetxattr 0 4  fsmount 0 1 2  fsopen 1  fspick 0 2  fstat 0  fsync 0  ftruncate 0  futex 1 2 5
getpgid 0  getpriority 0 1  getrandom 2  getrlimit 0  getrusage 0  getsid 0
getsockopt 0 1 2  inotify_init1 0  io_uring_enter 0 1 2 3  io_uring_register 0 1 3
io_uring_setup 0  ioctl 0 1  ioperm 2  iopl 0  ioprio_get 0 1  ioprio_set 0 1 2  ipc 0
kcmp 0 1 2  kexec_file_load 0 1  keyctl 0  kill 0 1  landlock_add_rule 0 1 3
landlock_create_ruleset 2  landlock_restrict_self 0 1  lchown 1 2  linkat 0 2 4  listen 0 1
lseek 0 2  madvise 2  membarrier 0 1 2  memfd_create 1  memfd_secret 0  mkdirat 0  mknod 2
mknodat 0 3  mlock2 2  mlockall 0  modify_ldt 0  mount_setattr 0 2  move_mount 0 2 4
mq_open 1  msgctl 0 1  msgget 0 1  msync 2  name_to_handle_at 0 4  newfstatat 0 3  open 1
open_by_handle_at 0 2  open_tree 0 2  open_tree_attr 0 2  openat 0 2  openat2 0
perf_event_open 1 2 3  personality 0  pidfd_getfd 0 1 2  pidfd_open 0 1
pidfd_send_signal 0 1 3  pipe2 1  pkey_free 0
prctl 0  preadv2 5  prlimit64 0 1  process_madvise 0 3 4  pwritev2 5  quotactl 0 2
quotactl_fd 0 1 2  read 0  readlinkat 0  reboot 0 1 2  recvfrom 0 3  recvmmsg 0 2 3  recvmsg 0 2
renameat 0 2  renameat2 0 2 4  rseq 1 2 3  sched_setattr 0 2  sched_setscheduler 0 1
seccomp 0 1  semctl 0 1 2  semget 0 1 2  sendmmsg 0 2 3  sendmsg 0 2  sendto 0 3 5  setgid 0
setns 0 1  setpgid 0 1  setpriority 0 1 2  setregid 0 1  setresgid 0 1 2  setresuid 0 1 2
setreuid 0 1  setrlimit 0  setsockopt 0 1 2 4  setuid 0  shmat 0 2  shmctl 0 1  shmget 0 2
shutdown 0 1  signalfd4 0 3  socket 0 1 2  socketcall 0  socketpair 0 1 2  splice 0 2 5
statx 0 2 3  swapon 1  symlinkat 1  sync_file_range 0 3  syslog 0 2  tee 0 1 3  tgkill 0 1 2
timer_create 0  timerfd_create 0 1  timerfd_settime 0 1  tkill 0 1  umount2 1  unlinkat 0 2
userfaultfd 0  utimensat 0 3  vmsplice 0 3  wait4 0 2  waitid 0 1 3  write 0
"""

_SIXTEEN = {"mkdir": 1, "mkdirat": 2, "mknod": 1, "mknodat": 2, "chmod": 1, "fchmod": 1,
            "fchmodat": 2, "fchmodat2": 2, "open": 2, "openat": 3, "creat": 1}  # fmt: skip


@cache
def _masks() -> Mapping[tuple[str, int], int]:
    masks = {}
    name = ""
    for word in _THIRTY_TWO.split():
        if word.isdigit():
            masks[name, int(word)] = _INT
        else:
            name = word
    for name, index in _SIXTEEN.items():
        masks[name, index] = _UMODE
    return masks


def significant_bits(abi: Abi, name: str, index: int) -> int:
    """A mask of the bits of argument ``index`` of a call that the kernel reads."""
    if name == "clone":
        # The kernel takes lower_32_bits(clone_flags); s390 has the flags second.
        declared = _INT if index == (abi.name == "s390x") else abi.argument_mask
    else:
        declared = _masks().get((name, index), abi.argument_mask)
    return declared & abi.argument_mask


def as_wide_as(value: int, bits: int) -> int | None:
    """A document's value as a field of those bits holds it; None if it never can.

    A negative number may be written sign-extended to 64 bits.
    """
    if value & ~bits == 0:
        return value
    sign_extended = value | bits == 0xFFFFFFFFFFFFFFFF and value & (bits + 1 >> 1)
    return value & bits if sign_extended else None
