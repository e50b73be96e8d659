import contextlib
import io
import unittest

from tests.bench import latency


def told(rate, first, between, call):
    return {"output_tokens_per_second": rate,
            "time_to_first_token_ms": {"p50": first, "p99": 10 * first},
            "message_interval_ms": {"p50": between, "p99": 10 * between},
            "time_per_output_token_ms": {"p50": call, "p99": 10 * call}}


class LatencyTest(unittest.TestCase):

    def test_a_row_is_a_median_of_rounds(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            latency.report({
                "32 at once": {
                    "packrat": [told(10, 1, 2, 3), told(30, 5, 4, 3), told(20, 2, 9, 3)],
                    "packrat --inter_token_time=inf": [told(40, 7, 8, 9)],
                },
            })
        header, bare, flags = [line.split("\t") for line in out.getvalue().splitlines()]
        self.assertEqual(header, ["benchmark", "median", "unit", "limit", "share", "note"])
        self.assertEqual(bare, ["latency: 32 at once, defaults", "20.0", "tokens/s", "-", "-",
                                "first token p50 2 ms, p99 20; between tokens p50 4 ms, p99 40; "
                                "a call's tokens p50 3 ms, p99 30"])
        self.assertEqual(flags[0], "latency: 32 at once, --inter_token_time=inf")
        self.assertEqual(flags[1], "40.0")

    def test_each_server_is_asked_in_its_turn(self):
        asked = []

        class Server:
            def __init__(self, name):
                self.name = name

            def signal(self, number):
                asked.append((self.name, number.name))

            def bench(self, *flags):
                asked.append((self.name, *flags))
                return len(asked)

        with contextlib.redirect_stderr(io.StringIO()):
            results = latency.measure([Server("a"), Server("b")], {"p": ("-x",), "q": ("-y",)}, 2)
        self.assertEqual(asked[:6], [("a", "SIGCONT"), ("a", "-x"), ("a", "SIGSTOP"),
                                     ("b", "SIGCONT"), ("b", "-x"), ("b", "SIGSTOP")])
        self.assertEqual(results, {"p": {"a": [2, 14], "b": [5, 17]}, "q": {"a": [8, 20], "b": [11, 23]}})


if __name__ == "__main__":
    unittest.main()
