"""Headless Chromium, driven over its DevTools pipe: JSON messages that end with a zero byte."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

# Debian's packages chromium-headless-shell and chromium.
PROGRAM = shutil.which("chromium-headless-shell") or shutil.which("chromium")


class Browser:
    """One page. What goes wrong in it (exceptions, errors in its console) is in `troubles`."""

    def __init__(self, url, width=1200, height=900, dark=False, scale=1):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()

        def place():  # Where --remote-debugging-pipe looks. They may lie in each other's way.
            high = [os.dup2(commands, 100), os.dup2(answers, 101)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [PROGRAM, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
             "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=" + self.folder.name],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=place)
        os.close(commands)
        os.close(answers)
        self.rest, self.number, self.session, self.troubles = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(domain + ".enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=scale, mobile=width < 600)
        self.call("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def _next(self):
        while b"\0" not in self.rest:
            if not select.select([self.answers], [], [], 60)[0]:
                raise TimeoutError
            more = os.read(self.answers, 1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(answer["error"])
                return answer["result"]
            what = answer.get("method")
            if what == "Runtime.exceptionThrown":
                self.troubles.append(str(answer["params"]["exceptionDetails"]))
            if what == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                self.troubles.append(answer["params"]["entry"]["text"])

    def run(self, script):
        """The value of an expression, promises waited for."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    def wait_for(self, script):
        give_up = time.monotonic() + 60
        while not (value := self.run(script)):
            if time.monotonic() > give_up:
                raise TimeoutError("%s: %s" % (script, self.run("document.body.innerText")))
            time.sleep(0.02)
        return value

    def text(self, element):
        return self.run("document.getElementById('%s').textContent" % element)

    def wait_until_on(self, button="generate"):
        """A button that is off has done nothing yet, or is at work."""
        self.wait_for("document.getElementById('%s').ariaDisabled === 'false'" % button)

    def click(self, element):
        """As soon as it can be."""
        self.wait_until_on(element)
        self.run("document.getElementById('%s').click()" % element)

    def fill(self, element, value):
        """As if it were typed and left."""
        self.run("(e => { e.focus(); e.value = %s; for (const t of ['input', 'change']) "
                 "e.dispatchEvent(new Event(t, {bubbles: true})); })(document.getElementById('%s'))"
                 % (json.dumps(value), element))

    def press(self, key, code, modifiers=0, text=""):
        """`modifiers`: 2: Ctrl, 8: Shift."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=code, modifiers=modifiers,
                      **({"text": text} if text and kind == "keyDown" else {}))

    def focused(self):
        return self.run("document.activeElement.id || document.activeElement.className || 'nothing'")

    def tab_to(self, element, backwards=False):
        for _ in range(100):
            self.press("Tab", 9, modifiers=8 if backwards else 0)
            if self.focused() == element:
                return
        raise AssertionError("no Tab leads to " + element)

    def enter(self):
        self.press("Enter", 13, text="\r")

    def tap(self, element):
        """With a finger, in its middle."""
        at = self.run("(e => { e.scrollIntoView({block: 'center', behavior: 'instant'});"
                      " const box = e.getBoundingClientRect();"
                      " return {x: box.x + box.width / 2, y: box.y + box.height / 2}; })(%s)" % element)
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[at])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def picture(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.kill()
        self.process.wait()
        os.close(self.commands)
        os.close(self.answers)
        self.folder.cleanup()
