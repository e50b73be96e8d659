#!/usr/bin/env python3
"""Runs a command as a container runtime runs an image's: in a root of its own that is read-only, as process 1
of namespaces of its own, as user 65534 without any capability, and within a memory limit where this machine
lets one be set.

  confined.py [--memory=BYTES] [--join=PID] ROOT COMMAND...

--join: in the network of an earlier one's process (its first line of output: "PID of the command, whether the
memory is limited"). SIGTERM goes on to the command; ends with the command's exit code. Exit code 77: not allowed
here.
"""

import argparse
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG = 23, 24, 38, 1
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
USER = 65534
NOT_ALLOWED = 77


def check(result, what):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, "%s: %s" % (what, os.strerror(code)))


def mount(source, target, kind, flags, data=""):
    check(LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()),
          "mount " + target)


def limit_memory(limit):
    """A control group with that limit, into which this process goes; None where there can be none."""
    for base, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                       ("/sys/fs/cgroup", "memory.max")):
        folder = os.path.join(base, "packrat-test-%d" % os.getpid())
        try:
            os.mkdir(folder)
        except OSError:
            continue
        try:
            with open(os.path.join(folder, name), "w", encoding="ascii") as file:
                file.write(str(limit))
            with open(os.path.join(folder, "cgroup.procs"), "w", encoding="ascii") as file:
                file.write("0")
            return folder
        except OSError:
            os.rmdir(folder)
    return None


def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        name = struct.pack("16sh", b"lo", 0)
        flags, = struct.unpack_from("h", fcntl.ioctl(end, SIOCGIFFLAGS, name), 16)
        fcntl.ioctl(end, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def enter(root, group):
    """In the child: the root, and no way back."""
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    mount(root, root, "none", MS_BIND | MS_REC)
    mount("none", root, "none", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    mount("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", root + "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755")
    for name in ("null", "urandom"):
        open(root + "/dev/" + name, "w", encoding="ascii").close()
        mount("/dev/" + name, root + "/dev/" + name, "none", MS_BIND)
    if group:  # As runtimes show it: the limit is that of the root of what is seen.
        mount("tmpfs", root + "/sys", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755")
        if group.startswith("/sys/fs/cgroup/memory/"):
            os.makedirs(root + "/sys/fs/cgroup/memory")
            mount("cgroup", root + "/sys/fs/cgroup/memory", "cgroup",
                  MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "memory")
        else:
            os.makedirs(root + "/sys/fs/cgroup")
            mount("cgroup2", root + "/sys/fs/cgroup", "cgroup2",
                  MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    os.chroot(root)
    os.chdir("/")
    for capability in range(64):
        if LIBC.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
            check(LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "dropping a capability")
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    check(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "dying with the parent")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--memory", type=int)
    parser.add_argument("--join")
    parser.add_argument("root")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    group = limit_memory(arguments.memory) if arguments.memory else None
    try:
        if arguments.join:
            network = os.open("/proc/%s/ns/net" % arguments.join, os.O_RDONLY)
            check(LIBC.setns(network, CLONE_NEWNET), "joining a network")
            os.close(network)
        spaces = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWCGROUP
        check(LIBC.unshare(spaces | (0 if arguments.join else CLONE_NEWNET)), "namespaces")
        if not arguments.join:
            loopback_up()
    except PermissionError as error:
        print(error, file=sys.stderr)
        return NOT_ALLOWED
    child = os.fork()
    if child == 0:
        failed = NOT_ALLOWED
        try:
            enter(arguments.root, group)
            failed = 127
            os.execve(arguments.command[0], arguments.command, {})
        except OSError as error:
            print(error, file=sys.stderr)
            os._exit(failed)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, signal.SIGTERM))
    print(child, "limited" if group else "unlimited", flush=True)
    _, status = os.waitpid(child, 0)
    if group:
        # Out of it, or it cannot go.
        with open(os.path.join(os.path.dirname(group), "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")
        os.rmdir(group)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main())
