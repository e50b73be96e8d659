"""sass.py on what the disassembler prints, and the rules of the other modules on kernels that break them."""

import glob
import re
import unittest

from tests.bench.gpu import gpu_report, hot_loops, occupancy, overlap, sass

NAME = "_ZN7packrat3gpu12_GLOBAL__N_115RatDecodeKernelIfNS0_12AttendLayoutILi16EEEEEvi"
SHORT = "RatDecodeKernel<float, AttendLayout<16>>"

HEADER = f"""\
\t.section\t.nv.info,"",@"SHT_CUDA_INFO"
\t//----- nvinfo : EIATTR_REGCOUNT
\t.align\t\t4
        /*0000*/ \t.byte\t0x04, 0x2f
        /*0002*/ \t.short\t(.L_1 - .L_0)
.L_0:
        /*0004*/ \t.word\tindex@({NAME})
        /*0008*/ \t.word\t0x00000080
\t//----- nvinfo : EIATTR_FRAME_SIZE
        /*000c*/ \t.word\tindex@({NAME})
        /*0010*/ \t.word\t0x00000018
\t.section\t.nv.info.{NAME},"",@"SHT_CUDA_INFO"
\t//----- nvinfo : EIATTR_MAX_THREADS
        /*0340*/ \t.word\t0x00000080
        /*0344*/ \t.word\t0x00000002
        /*0348*/ \t.word\t0x00000001
\t.section\t.text.{NAME},"ax",@progbits
"""


def instructions(*codes):
    return "".join(f"        /*{i * 16:04x}*/                   {code} ;\n" for i, code in enumerate(codes))


LOAD = "LDG.E.128.CONSTANT R28, desc[UR18][R28.64]"
AGAIN = "@!P0 BRA `(.L_x_1)"
END = (instructions("EXIT") + ".L_x_2:\n" + instructions("BRA `(.L_x_2)"))


def kernel(*loop):
    """One whose loop has these instructions."""
    text = (HEADER + instructions("LDC R1, c[0x0][0x28]", LOAD) + ".L_x_1:\n" + instructions(*loop) + END)
    parsed = sass.parse(text)
    assert list(parsed) == [NAME]
    return parsed[NAME]


class Sass(unittest.TestCase):
    def test_reads_resources(self):
        k = kernel(LOAD, AGAIN)
        self.assertEqual((k.registers, k.stack, k.threads), (128, 24, 256))

    def test_finds_loops(self):
        k = kernel(LOAD, "FADD R1, R2, R3", AGAIN)
        self.assertEqual(k.loops, [(2, 4)])  # Not what branches to itself.
        self.assertEqual(k.streaming_loops(), [(2, 4)])
        self.assertEqual([i.opcode for i in k.code((2, 4))], ["LDG.E.128.CONSTANT", "FADD", "BRA"])

    def test_what_is_left_over_of_an_unrolled_loop_does_not_count(self):
        inner = (".L_x_1:\n" + instructions(LOAD, LOAD, AGAIN) + ".L_x_3:\n" +
                 instructions(LOAD, "@P1 BRA `(.L_x_3)"))
        k = sass.parse(HEADER + inner + END)[NAME]
        self.assertEqual(k.loops, [(0, 2), (3, 4)])
        self.assertEqual(k.streaming_loops(), [(0, 2)])

    def test_loops_around_other_loops_do_not_count(self):
        text = (HEADER + ".L_x_3:\n" + instructions(LOAD, LOAD) + ".L_x_1:\n" + instructions(LOAD, AGAIN) +
                instructions("@P1 BRA `(.L_x_3)") + END)
        self.assertEqual(sass.parse(text)[NAME].streaming_loops(), [(2, 3)])

    def test_rounds_are_the_loops_directly_in_a_loop(self):
        text = (HEADER + ".L_x_1:\n" + instructions(LOAD) +
                ".L_x_3:\n" + instructions("FADD R1, R2, R3") +
                ".L_x_4:\n" + instructions("FADD R1, R2, R3", "@P1 BRA `(.L_x_4)", "@P1 BRA `(.L_x_3)") +
                instructions(AGAIN) + END)
        k = sass.parse(text)[NAME]
        self.assertEqual(k.streaming_loops(), [(0, 5)])
        self.assertEqual(k.rounds((0, 5)), [4])
        self.assertEqual(k.rounds((1, 4)), [2])

    def test_blocks_end_where_control_may_leave(self):
        for between, most in (("FADD R1, R2, R3", 2), ("@P0 EXIT", 1), ("BSYNC B0", 1),
                              ("@P2 BRA `(.L_x_2)", 1), ("BAR.SYNC.DEFER_BLOCKING 0x0", 2)):
            k = kernel(LOAD, between, LOAD, AGAIN)
            self.assertEqual(sass.wide_loads_of_a_block(k.code((2, 5))), most, between)

    def test_kinds_of_instructions(self):
        def of(code):
            return kernel(code, AGAIN).instructions[2]
        for code in (LOAD, "LDG.E.128 R4, desc[UR4][R2.64]", "LDG.E.ENL2.256 R4, R8, desc[UR4][R2.64]",
                     "LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64]", "UBLKCP [UR8], [UR4], UR6"):
            self.assertTrue(of(code).is_wide_load, code)
            self.assertEqual(of(code).is_copy, not code.startswith("LDG."), code)
        for code in ("LDG.E.64 R4, desc[UR4][R2.64]", "LDS.128 R92, [R96+0x810]", "STG.E.128 [R2], R4"):
            self.assertFalse(of(code).is_wide_load, code)
        for code in ("I2F.RP R42, R43", "I2F.U32.RP R42, R43",
                     "CALL.REL.NOINC `($__internal_1_$__cuda_sm20_div_u64)"):
            self.assertTrue(of(code).is_integer_division, code)
        for code in ("I2F.S32 R42, R43", "MUFU.RCP R42, R43",
                     "CALL.REL.NOINC `($__internal_1_$__cuda_sm3x_div_rn_noftz_f32_slowpath)"):
            self.assertFalse(of(code).is_integer_division, code)

    def test_names(self):
        self.assertEqual(sass.short_names([NAME, "_Z5otherv"]), {NAME: SHORT, "_Z5otherv": "other"})


class Rules(unittest.TestCase):
    def faults(self, *loop):
        return hot_loops.faults(SHORT, kernel(*loop))

    def test_a_good_loop(self):
        self.assertEqual(self.faults(*[LOAD] * 8, AGAIN), [])

    def test_divisions_spills_and_waiting_are_faults(self):
        for code, fault in (("I2F.RP R42, R43", "1 divisions"), ("STL [R1], R90", "local memory"),
                            ("LDL.64 R14, [R1+0x10]", "local memory")):
            self.assertIn(fault, "".join(self.faults(*[LOAD] * 8, code, AGAIN)))
        self.assertIn("at most 4 loads", "".join(self.faults(*[LOAD] * 4, "@P0 EXIT", *[LOAD] * 4, AGAIN)))
        self.assertIn("no loop", "".join(self.faults("FADD R1, R2, R3", AGAIN)))

    def test_attention_in_bfloat16_multiplies_on_tensor_cores(self):
        for name in ("RatDecodeKernel<bf16, TensorLayout<16>>", "AttentionPromptKernel<bf16, TensorLayout<16>>"):
            product = "HMMA.16816.F32.BF16 R36, R40, R44, R36"
            self.assertEqual(hot_loops.faults(name, kernel(*[LOAD] * 8, product, AGAIN)), [])
            self.assertIn("no products", "".join(hot_loops.faults(name, kernel(*[LOAD] * 8, AGAIN))))

    def test_spills_of_any_kernel_are_faults(self):
        spilled = kernel("STL [R1], R90", AGAIN)
        self.assertEqual(len(hot_loops.faults("SampleKernel", spilled)), 1)
        self.assertEqual(hot_loops.faults("EmbedKernel<StoredRows<bf16>>", spilled), [])
        self.assertEqual(hot_loops.faults("SampleKernel", kernel("I2F.RP R42, R43", AGAIN)), [])

    def test_copies_need_not_come_together(self):
        copy = "LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64]"
        mesa = "MesaDecodeKernel<128, float>"
        self.assertEqual(hot_loops.faults(mesa, kernel(copy, AGAIN)), [])
        self.assertEqual(len(hot_loops.faults(mesa, kernel(copy, "I2F.RP R42, R43", AGAIN))), 1)
        self.assertEqual(len(hot_loops.faults(mesa, kernel(LOAD, AGAIN))), 1)


class Overlap(unittest.TestCase):
    def faults(self, *codes, name="SampleKernel", arch="sm_90"):
        k = sass.parse(HEADER + instructions(*codes, "EXIT"))[NAME]
        return "".join(overlap.faults(arch, name, k))

    def test_kernels_wait_once_and_then_let_the_next_begin(self):
        read = "LDG.E R4, desc[UR4][R2.64]"
        self.assertEqual(self.faults("S2R R0, SR_TID.X", "LDS R1, [R2]", "ACQBULK", "PREEXIT", read), "")
        self.assertIn("waits at 0 places", self.faults("PREEXIT", read))
        self.assertIn("lets the next kernel begin at 0", self.faults("ACQBULK", read))
        self.assertIn("waits at 2 places", self.faults("ACQBULK", "ACQBULK", "PREEXIT"))
        self.assertIn("begin before it has waited", self.faults("PREEXIT", "ACQBULK"))
        self.assertIn("as if nobody wrote", self.faults("ACQBULK", "PREEXIT", LOAD))
        self.assertEqual(self.faults("ACQBULK", "PREEXIT", LOAD, name="EmbedKernel<StoredRows<float>>"), "")
        for early in (read, "STG.E [R2], R4", "ATOMG.E.ADD R4, [R2], R4", "LDGSTS.E.128 [R3], [R2.64]"):
            self.assertIn("before it has waited", self.faults(early, "ACQBULK", "PREEXIT"), early)

    def test_before_90_nothing_waits(self):
        self.assertEqual(self.faults(LOAD, arch="sm_80"), "")
        self.assertIn("nothing overlaps", self.faults("ACQBULK", "PREEXIT", arch="sm_80"))

    def test_products_ask_for_weights_first(self):
        wait, load = ("ACQBULK", "PREEXIT"), "LDG.E.128 R4, desc[UR4][R2.64]"
        name = "FewRowsBf16Kernel<1, Bf16Weights<true>>"
        self.assertEqual(self.faults(*[load] * 16, *wait, name=name), "")
        self.assertIn("15 loads of weights", self.faults(*[load] * 15, *wait, name=name))
        self.assertIn("not only loads", self.faults(*[load] * 16, "STG.E [R2], R4", *wait, name=name))
        self.assertEqual(self.faults(*["CCTL.E.PF2 [R2]"] * 2, *wait, name="FusedBf16Kernel<true, PlainOutputs>"), "")


class Patterns(unittest.TestCase):
    def test_each_is_of_one_kernel(self):
        """Of two in one pattern, one may be gone while the other is found."""
        for pattern in [row[0] for row in hot_loops.HOT + overlap.EARLY] + [rule.pattern for rule in occupancy.RULES]:
            self.assertNotIn("|", pattern)
            self.assertRegex(pattern, r"^[\w:]+Kernel\b")

    def test_products(self):
        for name, loads in (("FewRowsBf16Kernel<1, Bf16Weights<true>>", 8),
                            ("FewRowsBf16Kernel<1, Bf16Weights<false>>", None),
                            ("FewRowsBf16Kernel<2, QuantWeights<(DType)3>>", 8),
                            ("FewRowsBf16Kernel<2, QuantWeights<(DType)4>>", 6),
                            ("FewRowsF32Kernel<4, true>", 8), ("FewRowsF32Kernel<8, false>", None),
                            ("FewRowsQuantizedF32Kernel<1, (DType)3>", 8),
                            ("ManyRowsBf16Kernel<Bf16Weights<true>>", None)):
            self.assertEqual(hot_loops.wanted(name), loads, name)


class Report(unittest.TestCase):
    def test_issue(self):
        k = kernel(*[LOAD] * 8, *["FADD R1, R2, R3"] * 1015, AGAIN)
        self.assertEqual(hot_loops.instructions_per_byte(SHORT, k), 1024 / 4096)
        # A quarter of an instruction for each of 4.8e12 bytes, of 132 * 4 * 1.755e9 instructions.
        self.assertAlmostEqual(gpu_report.issue_share("sm_90", 0.25), 1.295, places=3)
        self.assertEqual(gpu_report.row("sm_90", "rat.cu", SHORT, k),
                         f"| rat.cu | `{SHORT}` | 256 | 128 | - | 24 | 2 | 1024 | - | 8 | 130 % |")
        name = "FewRowsBf16Kernel<1, Bf16Weights<true>>"
        self.assertEqual(gpu_report.row("sm_90", "matmul_bf16.cu", name, k),
                         f"| matmul_bf16.cu | `{name}` | 256 | 128 | - | 24 | 2 | 1024 | - | 8 | - |")
        self.assertEqual(gpu_report.row("sm_90", "a.cu", "SampleKernel", k),
                         "| a.cu | `SampleKernel` | 256 | 128 | - | 24 | 2 | - | - | - | - |")


class Occupancy(unittest.TestCase):
    def test_blocks(self):
        self.assertEqual(occupancy.blocks("sm_90", 32, 256), 8)
        self.assertEqual(occupancy.blocks("sm_90", 128, 128), 4)
        self.assertEqual(occupancy.blocks("sm_90", 16, 32), 32)
        self.assertEqual(occupancy.blocks("sm_120", 32, 256), 6)
        # 227 KB is the most that a block can have, 113 what two can.
        self.assertEqual(occupancy.blocks("sm_90", 32, 256, 227 << 10), 1)
        self.assertEqual(occupancy.blocks("sm_90", 32, 256, 113 << 10), 2)
        self.assertEqual(occupancy.blocks("sm_90", 32, 256, (113 << 10) + 1), 1)

    def test_products_of_many_rows(self):
        name = "ManyRowsBf16Kernel<QuantWeights<(DType)3>>"
        k = kernel(LOAD, AGAIN)  # 128 registers, 256 threads.
        for arch in occupancy.LIMITS:
            self.assertEqual(occupancy.faults(arch, name, k), [], arch)
        self.assertIn("| 1 |", gpu_report.row("sm_80", "matmul_bf16.cu", name, k))
        self.assertIn("| 2 |", gpu_report.row("sm_90", "matmul_bf16.cu", name, k))
        k.registers = 136
        self.assertIn("136 registers and 256 threads leave room for 1 blocks, not 2",
                      "".join(occupancy.faults("sm_90", name, k)))
        self.assertEqual(occupancy.faults("sm_90", "SomeOtherKernel<1>", k), [])

    def test_fewer_blocks_than_asked_for_are_written_down(self):
        """And no fewer are, so that the table stays true."""
        k = kernel(LOAD, AGAIN)
        k.registers, k.threads = 32, 64
        for rule in occupancy.RULES:
            for arch in occupancy.LIMITS:
                by_shared = min(occupancy.blocks(arch, 32, 64, rule.shared), rule.blocks)
                if rule.least(arch) != 0:
                    self.assertEqual(rule.least(arch), by_shared, (rule.pattern, arch))
                else:
                    self.assertLess(by_shared, rule.blocks, (rule.pattern, arch))

    def test_every_kernel_that_asks_for_blocks_has_a_rule(self):
        sources = glob.glob("kernels/*.cu") + glob.glob("kernels/*.cuh")
        self.assertGreater(len(sources), 20)
        asking = set()
        for path in sources:
            with open(path, encoding="utf-8") as file:
                asking |= occupancy.promising_kernels(file.read())
        ruled = {re.search(r"(\w+Kernel)\b", rule.pattern)[1] for rule in occupancy.RULES}
        self.assertEqual(ruled, asking)


if __name__ == "__main__":
    unittest.main()
