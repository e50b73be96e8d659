"""The page by keyboard, and with a finger on a phone; and whether its texts can be read in light and dark."""

import unittest

from tests.page.page_case import PROMPT, PageCase

# [How many texts there are, [text, contrast] of those that are too faint] by WCAG 2.1, whose least is 4.5.
# What is off may be faint.
CONTRASTS = """(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((x, i) => a * x + (1 - a) * below[i]);
  const ground = (e) =>
    e ? over(numbers(getComputedStyle(e).backgroundColor), ground(e.parentElement)) : [255, 255, 255];
  const luminance = (color) => color.map((x) => x / 255)
    .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + [0.2126, 0.7152, 0.0722][i] * x, 0);
  let count = 0;
  const faint = [];
  const check = (e, text, pseudo) => {
    const below = ground(e);
    const [less, more] = [below, over(numbers(getComputedStyle(e, pseudo).color), below)]
      .map(luminance).sort((a, b) => a - b);
    const contrast = (more + 0.05) / (less + 0.05);
    ++count;
    if (contrast < 4.5) faint.push([text, contrast]);
  };
  for (const e of document.body.querySelectorAll("*")) {
    if (!e.getClientRects().length || e.closest("[aria-disabled=true], :disabled, :disabled + span")) continue;
    if (e.placeholder) check(e, e.placeholder, "::placeholder");
    const text = e.matches("input, textarea") ? e.value
      : [...e.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("").trim();
    if (text) check(e, text);
  }
  return [count, faint];
})()"""
LARGE_ENOUGH = 44
SMALL = """[...document.querySelectorAll("button, select, summary, textarea, "
  + "input:not([type=checkbox], [type=radio]), label:has(input)")]
  .map((e) => [e.id || e.textContent, e.getBoundingClientRect()])
  .filter(([, box]) => box.height && Math.min(box.width, box.height) < %d)
  .map(([name, box]) => [name, box.width, box.height])""" % LARGE_ENOUGH


def at(element):
    return "document.getElementById('%s')" % element


class ReachTest(PageCase):

    def assert_focused(self, page, element):
        self.assertEqual(page.focused(), element)

    def test_an_answer_by_keyboard(self):
        page = self.ready(prompt=PROMPT, max_tokens=4000)
        page.tab_to("ignore_eos")
        page.press(" ", 32, text=" ")
        self.assertTrue(page.run(at("ignore_eos") + ".checked"))
        page.tab_to("generate")
        for _ in range(2):
            page.enter()
            page.wait_for(at("answer") + ".textContent.length > 40")
            self.assert_focused(page, "stop-text")
            page.enter()
            page.wait_until_on()
            self.assert_focused(page, "generate")
            self.assertIn("stopped", page.text("usage"))
        # By Ctrl+Enter the text keeps the focus, and Stop, once it has it, gives it to its starter.
        page.tab_to("prompt", backwards=True)
        page.press("Enter", 13, modifiers=2)
        page.wait_for(at("stop-text") + ".ariaDisabled === 'false'")
        self.assert_focused(page, "prompt")
        page.tab_to("stop-text")
        page.enter()
        page.wait_until_on()
        self.assert_focused(page, "generate")
        self.assertEqual((page.text("trouble"), page.troubles), ("", []))

    def test_a_key_that_is_held_does_not_stop_what_it_began(self):
        page = self.ready(prompt=PROMPT, max_tokens=300)
        page.tab_to("generate")
        for repeated in (False, True):
            page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r",
                      windowsVirtualKeyCode=13, autoRepeat=repeated)
        page.wait_until_on()
        page.wait_for(at("usage") + ".textContent")
        self.assertNotIn("stopped", page.text("usage"))

    def test_sessions_by_keyboard(self):
        page = self.ready(prompt=PROMPT, max_tokens=4)

        def press(button, state):
            page.tab_to(button)
            page.enter()
            page.wait_for(at("session-state") + ".textContent.startsWith('%s')" % state)
            page.wait_until_on()
            self.assert_focused(page, button)

        press("create", "0 turns")
        press("generate", "1 turn,")
        press("fork", "1 turn,")
        press("rewind", "0 turns")
        page.tab_to("session", backwards=True)
        fork = page.run(at("session") + ".value")
        for key, code in (("Home", 36), ("End", 35)):
            page.press(key, code)
            page.wait_until_on()
            self.assert_focused(page, "session")
        self.assertNotEqual(page.run(at("session") + ".value"), "")
        page.fill("session", fork)
        page.wait_until_on()
        press("delete", "")
        self.assertEqual(page.run(at("session") + ".value"), "")
        # What is off has a place, and does nothing.
        page.enter()
        page.wait_until_on()
        self.assert_focused(page, "delete")
        self.assertEqual((page.text("trouble"), page.troubles), ("", []))

    def test_a_session_is_not_changed_under_an_answer(self):
        page = self.ready(prompt=PROMPT, max_tokens=4000)
        page.run(at("ignore_eos") + ".checked = true")
        page.click("create")
        page.wait_for(at("session-state") + ".textContent")
        page.wait_until_on()
        session = page.run(at("session") + ".value")
        page.click("generate")
        page.wait_for(at("stop-text") + ".ariaDisabled === 'false'")
        page.fill("session", "")
        self.assertEqual(page.run(at("session") + ".value"), session)
        page.click("stop-text")
        page.wait_until_on()

    def test_tokens_by_keyboard(self):
        page = self.ready(prompt=PROMPT, max_tokens=5, temperature=0)
        page.tab_to("likely")
        page.press(" ", 32, text=" ")
        self.generate(page)
        tells = page.run("[...document.querySelectorAll('.token')].map((e) => e.dataset.tells)")
        self.assertEqual(len(set(tells)), 5)
        page.tab_to("token", backwards=True)
        self.assertEqual(page.text("token"), tells[0])
        for key, code, told in (("ArrowLeft", 37, 0), ("ArrowRight", 39, 1), ("ArrowRight", 39, 2),
                                ("ArrowLeft", 37, 1), ("End", 35, 4), ("ArrowRight", 39, 4),
                                ("Home", 36, 0), ("ArrowRight", 39, 1)):
            page.press(key, code)
            self.assertEqual(page.text("token"), tells[told], key)
        # One of them is among the stops of Tab: the one that was left.
        page.press("Tab", 9)
        self.assert_focused(page, "prompt")
        page.press("Tab", 9, modifiers=8)
        self.assertEqual((page.focused(), page.text("token")), ("token", tells[1]))

    def test_a_chat_by_keyboard(self):
        _, page = self.chat()
        page.fill("max_tokens", 4000)
        page.run(at("ignore_eos") + ".checked = true")
        page.fill("say", "One")
        page.tab_to("send")
        page.enter()
        page.wait_for("document.querySelectorAll('.message')[1]?.textContent.length > 40")
        self.assert_focused(page, "stop-chat")
        page.enter()
        page.wait_until_on("send")
        self.assert_focused(page, "send")
        page.tab_to("take-back")
        page.enter()
        self.assert_focused(page, "take-back")
        self.assertEqual(page.run("document.querySelectorAll('.message').length"), 0)

    def test_on_a_phone_by_finger(self):
        _, page = self.chat(width=390, height=844, dark=True)
        page.run("document.querySelector('input[value=text]').click()")
        page.fill("prompt", PROMPT)
        page.tap("document.querySelector('#options summary')")
        self.assertTrue(page.run(at("options") + ".open"))
        page.tap("document.querySelector('label:has(#likely)')")
        self.assertTrue(page.run(at("likely") + ".checked"))
        page.tap(at("generate"))
        page.wait_for(at("usage") + ".textContent")
        page.wait_until_on()
        page.tap("document.querySelector('#answer .token')")
        self.assertRegex(page.text("token"), r'^".*" [\d.e-]+ %; of all: ')
        page.tap("document.querySelector('label:has([value=chat])')")
        page.fill("say", "One")
        page.enter()  # Begins a line: there is no Shift.
        self.assertEqual(page.run(at("say") + ".value"), "One\n")
        page.tap(at("send"))
        page.wait_until_on("send")
        page.wait_for("document.querySelectorAll('.message .token').length")
        self.assertEqual((page.text("trouble"), page.troubles), ("", []))
        # Everything there is.
        page.run("for (const e of document.querySelectorAll('details')) e.open = true;"
                 "for (const e of document.querySelectorAll('section')) e.hidden = false")
        self.assertLessEqual(page.run("document.documentElement.scrollWidth"), 390)
        self.assertEqual(page.run(SMALL), [])

    def test_keys_are_told_to_those_who_have_them(self):
        hints = "['prompt-hint', 'say-hint'].map((id) => document.getElementById(id).innerText)"
        for size, coarse, told in (({}, False, ["Ctrl+Enter generates, Esc stops.",
                                                "Enter sends, Shift+Enter begins a line, Esc stops."]),
                                   ({"width": 390, "height": 844}, True, ["", ""])):
            page = self.open(**size)
            page.wait_until_on()
            page.run("for (const e of document.querySelectorAll('section')) e.hidden = false")
            self.assertEqual(page.run("matchMedia('(pointer: coarse)').matches"), coarse)
            self.assertEqual(page.run(hints), told)
            # A small window has the keys of a large one.
            page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=False)
            self.assertEqual(page.run(hints), told)

    def test_every_control_has_a_name(self):
        self.assertEqual(self.ready().run(
            "[...document.querySelectorAll('button, select, textarea, input')].filter((e) =>"
            " !(e.labels?.length || e.textContent.trim())).map((e) => e.id)"), [])

    def test_texts_can_be_read(self):
        grounds = []
        for dark in (False, True):
            _, page = self.chat(dark=dark)
            page.run(at("likely") + ".checked = true")
            page.fill("say", "One")
            page.click("send")
            page.wait_until_on("send")
            page.run("document.querySelector('input[value=text]').click()")
            page.fill("prompt", PROMPT)
            self.generate(page)
            page.fill("others", "{")
            page.click("generate")
            page.wait_for(at("told") + "?.textContent")
            page.run("for (const e of document.querySelectorAll('details')) e.open = true;"
                     "for (const e of document.querySelectorAll('section')) e.hidden = false")
            count, faint = page.run(CONTRASTS)
            self.assertGreater(count, 60)
            self.assertEqual(faint, [], "dark" if dark else "light")
            grounds.append(page.run("getComputedStyle(document.body).backgroundColor"))
        self.assertEqual(len(set(grounds)), 2)


if __name__ == "__main__":
    unittest.main()
