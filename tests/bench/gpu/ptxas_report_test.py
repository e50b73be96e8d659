"""ptxas_report.py on what the compiler prints."""

import unittest

from tests.bench.gpu import ptxas_report

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7packrat3gpu4KernIfEEvPfi' for 'sm_90'
ptxas info    : Function properties for _ZN7packrat3gpu4KernIfEEvPfi
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes stack, 1024 bytes smem, 372 bytes cmem[0]
ptxas info    : Function properties for _Z6helperv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function '_Z5otherv' for 'sm_90'
ptxas info    : Function properties for _Z5otherv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""
PTX = """\
.visible .entry _ZN7packrat3gpu4KernIfEEvPfi(
	.param .u64 a
)
.maxntid 128, 2, 1
{
}
.entry _Z5otherv()
.maxntid 256
"""


class Report(unittest.TestCase):
    def test_reads_the_compiler(self):
        kernels = ptxas_report.parse_ptxas(PTXAS)
        self.assertEqual(list(kernels), ["_ZN7packrat3gpu4KernIfEEvPfi", "_Z5otherv"])
        self.assertEqual(kernels["_ZN7packrat3gpu4KernIfEEvPfi"],
                         {"registers": 40, "spill_stores": 4, "spill_loads": 12, "stack": 8,
                          "shared": 1024})
        threads = ptxas_report.parse_ptx(PTX)
        self.assertEqual(threads, {"_ZN7packrat3gpu4KernIfEEvPfi": 256, "_Z5otherv": 256})
        rows, spills = ptxas_report.table("kernels/a.cu", kernels, threads)
        self.assertEqual(spills, 1)
        self.assertIn("| a.cu | `Kern<float>` | 256 | 40 | 16 | 8 | 1024 | 6 |", rows)
        self.assertIn("| a.cu | `other` | 256 | 255 | - | - | - | 1 |", rows)

    def test_blocks(self):
        self.assertEqual(ptxas_report.blocks_per_multiprocessor(32, 256), 8)
        self.assertEqual(ptxas_report.blocks_per_multiprocessor(128, 128), 4)
        self.assertEqual(ptxas_report.blocks_per_multiprocessor(16, 32), 32)


if __name__ == "__main__":
    unittest.main()
