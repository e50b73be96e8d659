"""The rules of hot_loops.py, occupancy.py and overlap.py on the machine code of the kernels as they are built."""

import re
import sys
import unittest

from tests.bench.gpu import hot_loops, occupancy, overlap, sass

CUBINS = []
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")


class HotLoops(unittest.TestCase):
    def setUp(self):
        self.nvdisasm = sass.find_nvdisasm()
        if self.nvdisasm is None:
            self.skipTest("no nvdisasm in the CUDA toolkit or among the tests' packages")

    def test_every_kernel_keeps_the_rules(self):
        for arch in ARCHITECTURES:
            cubins = [cubin for cubin in CUBINS if f".{arch}." in cubin]
            self.assertTrue(cubins, arch)
            names, faults = [], []
            for cubin in cubins:
                for name, kernel in sass.read(self.nvdisasm, cubin).items():
                    names.append(name)
                    faults += hot_loops.faults(name, kernel) + occupancy.faults(arch, name, kernel)
                    faults += overlap.faults(arch, name, kernel)
            with self.subTest(arch):
                self.assertEqual(faults, [])
                patterns = [pattern for pattern, _ in hot_loops.HOT + overlap.EARLY]
                patterns += [rule.pattern for rule in occupancy.RULES]
                for pattern in patterns:
                    self.assertTrue(any(re.match(pattern, name) for name in names),
                                    f"no kernel is called {pattern}")


if __name__ == "__main__":
    CUBINS = sys.argv[1:]
    unittest.main(argv=sys.argv[:1])
