"""A program at a terminal, for tests of what people see there."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

UP, LEFT = "\x1b[A", "\x1b[D"
CTRL_C, CTRL_D, BACKSPACE = "\x03", "\x04", "\x7f"


class Terminal:

    def __init__(self, *command, env=None, cwd=None):
        self.master, self.slave = pty.openpty()
        self.modes = termios.tcgetattr(self.slave)
        environment = {name: value for name, value in os.environ.items()
                       if name not in ("LANG", "LC_ALL", "LC_CTYPE", "NO_COLOR")}
        environment.update({"TERM": "xterm", "HOME": os.environ["TEST_TMPDIR"]}, **(env or {}))

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(command, stdin=self.slave, stdout=self.slave,
                                        stderr=self.slave, env=environment, cwd=cwd,
                                        preexec_fn=take_terminal)
        self.raw = ""   # All that was shown.
        self._seen = 0  # So much of it was waited for.

    @property
    def shown(self):
        """Without colours and the like."""
        return re.sub(r"\r+\n", "\n", re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])", "", self.raw))

    def wait_for_some(self):
        """Until anything is shown behind what was waited for last."""
        give_up = time.monotonic() + 60
        while not self.shown[self._seen:]:
            if time.monotonic() > give_up or not self._more(1) and self.process.poll() is not None:
                raise AssertionError("nothing is shown behind %r" % self.shown)

    def _more(self, timeout):
        if not select.select([self.master], [], [], timeout)[0]:
            return False
        self.raw += os.read(self.master, 65536).decode(errors="replace")
        return True

    def wait_for(self, pattern):
        """Until this is shown behind what was waited for last; returns what came before it."""
        give_up = time.monotonic() + 60
        while not (found := re.compile(pattern).search(self.shown, self._seen)):
            if time.monotonic() > give_up or not self._more(1) and self.process.poll() is not None:
                raise AssertionError("%r is not in %r" % (pattern, self.shown[self._seen:]))
        before = self.shown[self._seen:found.start()]
        self._seen = found.end()
        return before

    def wait_for_prompt(self):
        """Also until the program reads keys by itself, so that none is echoed or interpreted twice."""
        # One that is written again, as a line is edited, does not begin a line.
        before = self.wait_for(r"\n\d*> ")
        give_up = time.monotonic() + 60
        while termios.tcgetattr(self.slave)[3] & termios.ICANON:
            if time.monotonic() > give_up:
                raise AssertionError("nobody reads keys")
            time.sleep(0.005)
        return before

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def paste(self, text):
        """As terminals do it that were told to mark pastes."""
        self.type("\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~")

    def type(self, text):
        os.write(self.master, text.encode())

    def say(self, line):
        """Types a line and waits for the next prompt; returns what was shown in between."""
        self.type(line + "\r")
        return self.wait_for_prompt()

    def end(self):
        """Waits for the program's end; its exit code."""
        give_up = time.monotonic() + 60
        while self.process.poll() is None:
            self._more(0.05)
            if time.monotonic() > give_up:
                raise AssertionError("it does not end: %r" % self.shown)
        while self._more(0):
            pass
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)
