"""Chats of the page that are kept in sessions: forked, taken back, stopped."""

import unittest

from tests.page.page_case import PageCase

OFF = "['send', 'take-back', 'anew'].map((id) => document.getElementById(id).ariaDisabled === 'true')"


class ChatSessionTest(PageCase):

    def setUp(self):
        self.chats, self.page = self.chat()
        self.page.click("create")
        self.wait_for(0, 0)

    def wait_for(self, turns, messages):
        """Of the session, and on the page."""
        self.page.wait_for(
            "document.getElementById('session-state').textContent.startsWith('%d turn')"
            " && document.querySelectorAll('.message').length === %d"
            " && document.getElementById('create').ariaDisabled === 'false'" % (turns, messages))

    def say(self, text, turns, messages):
        self.page.fill("say", text)
        self.page.click("send")
        self.wait_for(turns, messages)

    def chosen(self):
        return self.page.run("document.getElementById('session').value")

    def shown(self):
        return self.page.run("[...document.querySelectorAll('.message')].map((e) => e.textContent)")

    def assert_kept(self, handle, system="Be brief."):
        """The session holds the system's message and those that are shown."""
        text = self.chats.client("sessions", "show", handle).stdout.split("\n\n", 1)[1][:-1]
        lines = ["[%s]%s" % tuple(message.split(": ", 1)) for message in self.shown()]
        self.assertEqual(text, "\n".join(["[system]" + system] + lines))

    def test_turns_forks_and_what_is_taken_back(self):
        page, first = self.page, self.chosen()
        self.say("One", 1, 2)
        self.say("Two", 2, 4)
        self.assert_kept(first)
        self.assertRegex(page.text("usage"), r"\d+ of them not computed again")
        self.assertIn("fork", page.text("session-hint"))
        said = self.shown()
        page.click("fork")
        page.wait_for("document.getElementById('session').value !== '%s'" % first)
        self.wait_for(2, 4)
        fork = self.chosen()
        page.click("take-back")
        self.wait_for(1, 2)
        self.assertEqual(page.run("document.getElementById('say').value"), "Two")
        self.say("Three", 2, 4)
        self.assert_kept(fork)
        self.assertNotEqual(self.shown(), said)
        # The other one has not changed.
        page.fill("session", first)
        self.wait_for(2, 4)
        self.assertEqual(self.shown(), said)
        self.assert_kept(first)
        # The session's own button takes back the same; then all of it goes.
        page.click("rewind")
        self.wait_for(1, 2)
        self.assertEqual(self.shown(), said[:2])
        page.click("anew")
        self.wait_for(0, 0)
        self.say("One", 1, 2)
        self.assertEqual(self.shown(), said[:2])
        # In no session nothing was said.
        page.fill("session", "")
        page.wait_until_on("send")
        self.assertEqual(self.shown(), [])
        self.assertEqual(page.troubles, [])

    def load_again(self):
        self.page.run("document.title = 'before'")
        self.page.call("Page.reload")
        self.page.wait_for("document.readyState === 'complete' && document.title.endsWith('Packrat')"
                           " && document.getElementById('send').ariaDisabled !== null")
        self.page.wait_for("document.getElementById('health').className === 'good'")

    def test_what_was_said_is_there_when_the_page_is_loaded_again(self):
        page, session = self.page, self.chosen()
        self.say("One", 1, 2)
        page.fill("say", "Two")
        said = self.shown()
        self.load_again()
        self.wait_for(1, 2)
        self.assertEqual((self.chosen(), self.shown()), (session, said))
        page.fill("max_tokens", 6)
        page.fill("temperature", 0)
        page.click("send")  # What was typed.
        self.wait_for(2, 4)
        self.assert_kept(session)
        # A chat of no session, and one of a session that is no more.
        page.fill("session", "")
        page.wait_for("document.querySelectorAll('.message').length === 0")
        page.fill("say", "Three")
        page.click("send")
        page.wait_for("document.querySelectorAll('.message').length === 2")
        page.wait_until_on("send")
        said = self.shown()
        self.load_again()
        page.wait_for("document.querySelectorAll('.message').length === 2")
        self.assertEqual((self.chosen(), self.shown()), ("", said))
        page.fill("session", session)
        self.wait_for(2, 4)
        self.chats.client("sessions", "delete", session)
        self.load_again()
        page.wait_for("document.querySelectorAll('.message').length === 2")
        self.assertEqual((self.chosen(), self.shown(), page.troubles), ("", said, []))

    def test_a_turn_that_was_stopped_goes_on(self):
        page = self.page
        self.say("One", 1, 2)
        page.fill("max_tokens", 3000)
        page.run("document.getElementById('ignore_eos').checked = true")
        page.fill("say", "Two")
        page.click("send")
        page.wait_for("document.querySelectorAll('.message')[3]?.textContent.length > 40")
        page.click("stop-chat")
        # What came is shown; the session gets it with the next turn.
        self.wait_for(1, 4)
        page.fill("max_tokens", 6)
        said = self.shown()
        self.say("Three", 2, 6)
        self.assertEqual(self.shown()[:4], said)
        self.assert_kept(self.chosen())
        for turns, messages in ((1, 4), (1, 2), (0, 0)):
            page.click("take-back")
            self.wait_for(turns, messages)
        self.assertEqual((page.text("trouble"), page.troubles), ("", []))

    def test_what_was_not_said_here_is_no_chat(self):
        page = self.page
        self.say("One", 1, 2)
        page.run("document.querySelector('input[value=text]').click()")
        page.fill("prompt", " And")
        self.generate(page)
        page.run("document.querySelector('input[value=chat]').click()")
        self.assertIn("not said in this chat", page.text("session-hint"))
        self.assertEqual(page.run(OFF), [True, True, True])
        page.click("rewind")
        self.wait_for(1, 2)
        self.assertEqual(page.run(OFF), [False, False, False])
        self.say("Two", 2, 4)
        self.assert_kept(self.chosen())

    def test_a_turn_that_is_refused_leaves_the_chat(self):
        page = self.page
        self.say("One", 1, 2)
        page.fill("temperature", 101)
        page.fill("say", "Two")
        page.click("send")
        page.wait_for("document.getElementById('trouble').textContent")
        self.wait_for(1, 2)
        self.assertEqual(page.run("document.getElementById('say').value"), "Two")
        page.fill("temperature", 0)
        page.click("send")
        self.wait_for(2, 4)
        self.assertEqual(page.text("trouble"), "")
        self.assert_kept(self.chosen())

    def test_what_was_said_before_may_change(self):
        page = self.page
        first = self.chosen()
        self.say("One", 1, 2)
        page.click("fork")
        page.wait_for("document.getElementById('session').value !== '%s'" % first)
        self.wait_for(1, 2)
        fork = self.chosen()
        self.say("Two", 2, 4)
        said = self.shown()
        page.fill("system", "Be long.")
        self.say("Three", 1, 6)
        self.assertEqual(self.shown()[:4], said)
        self.assert_kept(fork, "Be long.")
        self.say("Four", 2, 8)
        for turns, messages in ((1, 6), (0, 4), (0, 2)):
            page.click("take-back")
            self.wait_for(turns, messages)
        # The chat that it was forked from is as it was.
        page.fill("session", first)
        self.wait_for(1, 2)
        self.assert_kept(self.chosen())
        self.assertEqual(page.text("trouble"), "")


if __name__ == "__main__":
    unittest.main()
