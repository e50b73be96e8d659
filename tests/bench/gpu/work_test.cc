// The formulas against numbers worked out by hand, and what a row says in JSON.
#include "tests/bench/gpu/work.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/bench/gpu/report.h"

namespace packrat::gpu_bench {
namespace {

TEST(WorkTest, RatToken) {
  // 256 entries of 2 x 2048 bfloat16, a sixteenth of one written; 52 heads of projection; output;
  // 4096 float32 of running chunk both ways; a rotary row.
  const Work work = RatToken({16, 2, 128, 16}, 2, 4096);
  EXPECT_EQ(work.bytes, 256 * 8192 + 512 + 13312 + 4096 + 32768 + 512);
  EXPECT_EQ(work.flops, 4 * 2048 * 257 + 20 * 2048);
  EXPECT_EQ(RatToken({16, 2, 128, 16}, 2, 4096 + 15).bytes, work.bytes);  // The chunk runs.
}

TEST(WorkTest, RatPlusToken) {
  // 4 sinks, 246 ends of stretches beyond them and 100 of the window, of 8 KB each; its own; an
  // eighth of an entry to pages; four rows of 2048.
  const Work work = RatPlusToken({16, 128, 16, 100, 4}, 2, 4036);
  EXPECT_EQ(work.bytes, (4 + 246 + 100 + 1) * 8192.0 + 1024 + 4 * 4096 + 512);
  EXPECT_EQ(work.flops, 4 * 2048.0 * 351);
}

TEST(WorkTest, AttentionToken) {
  const Work full = AttentionToken({16, 16, 128, 0}, 2, 4096);
  EXPECT_EQ(full.bytes, 4097 * 8192 + 8192 + 8192 + 512);
  const Work window = AttentionToken({16, 4, 128, 1024}, 2, 4096);
  EXPECT_EQ(window.bytes, 1024 * 2048 + 2048 + 8192 + 512);
  EXPECT_EQ(AttentionToken({16, 4, 128, 1024}, 2, 100).bytes, 101 * 2048 + 2048 + 8192 + 512);
}

TEST(WorkTest, MesaToken) {
  // Triangle 8256 and 16384 float32, 17/16 of them moved; 8.5 rows of k, v, beta, log_gamma; two
  // convolutions of three rows read and one written.
  const MesaShape shape{16, 128, 4};
  const double head = 98560 * 17.0 / 16 + 8.5 * 258 * 4 + 2 * 4 * 512;
  EXPECT_EQ(MesaStateBytesPerHead(shape, 4), head);
  EXPECT_NEAR(head, 117.6e3, 50);
  EXPECT_EQ(MesaToken(shape, 2, 4, 15, true).bytes, 16 * head + 5 * 4096 + 128);
  EXPECT_EQ(MesaToken(shape, 2, 4, 15, false).bytes, 16 * head + 4 * 4096 + 128);
}

TEST(WorkTest, Product) {
  const Work work = Product(3, 100, 10, DType::kBF16, 4);
  EXPECT_EQ(work.bytes, 2000 + 60 + 1200);
  EXPECT_EQ(work.flops, 6000);
  // 34 and 20 bytes for each 32 weights.
  EXPECT_EQ(Product(3, 100, 64, DType::kInt8, 4).bytes, 6800 + 384 + 1200);
  EXPECT_EQ(Product(3, 100, 64, DType::kInt4, 4).bytes, 4000 + 384 + 1200);
}

TEST(WorkTest, Model) {
  const RandomModelShape shape = Rat1300M();
  const double layer = 6656.0 * 2048 + 2048 * 2048 + 2048 + 3.0 * 2048 * 5632 + 2 * 2048;
  EXPECT_EQ(ModelParameters(shape), 24 * layer + 32001.0 * 2048);
  const Kernels one = ModelDecode(shape, 1, 4096), many = ModelDecode(shape, 256, 4096);
  const double weights = 2 * ModelParameters(shape);
  const double cache = 24 * (256 * 8192 + 512 + 32768.0);
  EXPECT_NEAR(Sum(one).bytes, weights + cache, 1);
  EXPECT_NEAR(Sum(many).bytes, weights + 256 * cache, 1);
  const double mixer = 24 * RatToken({16, 2, 128, 16}, 2, 4096).flops;
  const double products = 2 * (24 * (layer - 2048 - 2 * 2048) + 32000.0 * 2048);
  EXPECT_NEAR(Sum(many).flops, 256 * (products + mixer), 1e3);
  const Kernels int4 = ModelDecode(shape, 1, 4096, DType::kInt4);
  EXPECT_NEAR(
      Sum(int4).bytes,
      24 * ((layer - 3 * 2048) * 0.625 + 3 * 2048 * 2) + 32000.0 * 2048 * 1.0625 + 2048 * 2 + cache,
      1);
  EXPECT_GT(ModelPromptFlops(shape, 8192), 2 * 8192 * 24 * layer);
}

// While products compute, the memory that the mixer will need waits.
TEST(WorkTest, FloorsOfKernelsThatFollowEachOtherAdd) {
  Limits limits;
  limits.bytes_per_second = 10, limits.bf16_flops = 100, limits.f32_flops = 50;
  const Kernel by_bytes{{30, 100}, Rate::kBf16}, by_flops{{5, 400}, Rate::kBf16};
  const Kernel by_f32{{5, 400}, Rate::kF32}, unbound{{30, 1e9}};
  EXPECT_EQ(FloorOf({by_bytes}, limits).seconds, 3);
  EXPECT_EQ(FloorOf({by_bytes}, limits).limited_by, "bandwidth");
  EXPECT_EQ(FloorOf({by_flops}, limits).seconds, 4);
  EXPECT_EQ(FloorOf({by_flops}, limits).limited_by, "bf16 products");
  EXPECT_FALSE(FloorOf({by_flops}, limits).by_bytes);
  EXPECT_EQ(FloorOf({by_f32}, limits).seconds, 8);
  EXPECT_EQ(FloorOf({unbound}, limits).seconds, 3);
  const Floor floor = FloorOf({by_bytes, by_flops, unbound}, limits);
  EXPECT_EQ(floor.seconds, 10);
  EXPECT_EQ(floor.limited_by, "bandwidth and bf16 products");
  EXPECT_TRUE(floor.by_bytes);
}

TEST(ReportTest, Json) {
  Row row;
  row.section = "a", row.name = "with \"quotes\"\n", row.shape = "1";
  row.figure = 2, row.limit = 4, row.unit = "GB/s";
  row.seconds = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(ToJson(row),
            "{\"section\": \"a\", \"name\": \"with \\\"quotes\\\" \", \"shape\": \"1\", "
            "\"seconds\": null, \"figure\": 2, \"unit\": \"GB/s\", \"limit\": 4, \"share\": 0.5}");
}

}  // namespace
}  // namespace packrat::gpu_bench
