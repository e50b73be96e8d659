import contextlib
import io
import unittest

from tests.bench import peers

# Rounds of a machine that gets slower: ratios are of one round, so they do not see it.
RATES = {
    "8": {
        "packrat": [300.0, 200.0, 90.0],
        "packrat --weights=int8": [600.0, 100.0, 120.0],
        "vllm": [150.0, 100.0, 30.0],
        "llama.cpp m.gguf": [100.0, 50.0, 45.0],
    },
    "prompts": {"packrat": [1000.0], "vllm": [800.0]},
}


class PeersTest(unittest.TestCase):

    def report(self, rates, **more):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            peers.report(rates, **more)
        return [line.split("\t") for line in out.getvalue().splitlines()]

    def test_medians_and_ratios_round_by_round(self):
        bare, int8, prompts = self.report(RATES)
        self.assertEqual(bare, ["peers: 8 callers", "200.0", "tokens/s", "-", "-",
                                "2.00 x vllm's 100.0, 3.00 x llama.cpp m.gguf's 50.0"])
        self.assertEqual(int8, ["peers: 8 callers --weights=int8", "120.0", "tokens/s", "-", "-",
                                "4.00 x vllm's 100.0, 2.67 x llama.cpp m.gguf's 50.0"])
        self.assertEqual(prompts[0], "peers: prompts of 512, 8 callers")
        self.assertEqual(prompts[5], "1.25 x vllm's 800.0")

    def test_limits_say_what_a_goal_would_take(self):
        bare, int8, prompts = self.report(RATES, limits={"8": 400.0, "prompts": 1250.0}, goal=2.5)
        self.assertEqual(bare[3:5], ["400.0", "50%"])
        self.assertEqual(bare[5], "2.00 x vllm's 100.0, 3.00 x llama.cpp m.gguf's 50.0, "
                                  "2.5 times the better is 62% of the limit")
        self.assertEqual(int8[5], "4.00 x vllm's 100.0, 2.67 x llama.cpp m.gguf's 50.0")
        self.assertIn("2.5 times the better is 160% of the limit", prompts[5])

    def test_without_peers_there_are_no_ratios(self):
        self.assertEqual(self.report({"1": {"packrat": [5.0, 7.0]}})[0],
                         ["peers: 1 callers", "6.0", "tokens/s", "-", "-", ""])

    def test_tokens_of_a_row_over_the_time_of_all_callers(self):
        class Server:
            name, signals = "packrat", []

            def signal(self, number):
                self.signals.append(number)

            def seconds(self, callers, prompt_tokens, tokens, vocab):
                self.asked = callers, prompt_tokens, tokens
                return 2.0

        server = Server()
        with contextlib.redirect_stderr(io.StringIO()):
            rates = peers.measure([server], ["8", "prompts"], 2, 100)
        # 8 x 128 generated tokens, 8 x 512 of prompts; the round that warms is not counted, and has none
        # of the prompts.
        self.assertEqual(rates, {"8": {"packrat": [512.0, 512.0]},
                                 "prompts": {"packrat": [2048.0, 2048.0]}})
        self.assertEqual(server.asked, (8, 512, 1))
        self.assertEqual(server.signals, [peers.signal.SIGCONT, peers.signal.SIGSTOP] * 5)


if __name__ == "__main__":
    unittest.main()
