// What goes up for a step: one copy of what the step uses, where its kernels look for it.
#include "models/gpu/device_batch.h"

#include <cstring>
#include <memory>
#include <vector>

#include "tests/gpu/gpu.h"

namespace packrat {
namespace {

constexpr int kVocab = 8;

class DeviceBatchTest : public GpuTest {
 protected:
  // For `rows` texts of up to 1,024 tokens.
  std::unique_ptr<gpu::DeviceBatch> Make(int rows) {
    auto batch = gpu::DeviceBatch::Create(config_, layout_, {rows, 4 * rows, rows, 1024}, {});
    EXPECT_TRUE(batch.ok()) << batch.status();
    return *std::move(batch);
  }
  static ModelConfig TwoClasses() {
    ModelConfig config;
    config.mixers = {RatSpec{2, 1, 16, 8, 10000.0},
                     AttentionSpec{2, 2, 16, 0, 10000.0, false, false}};
    return config;
  }
  static gpu::StepSize Sampled(int rows) {
    gpu::StepSize size;
    size.spans = size.tokens = size.rows = rows;
    size.sampled = true;
    return size;
  }
  // What the device has at `from`, once the copies are done.
  template <class T>
  static std::vector<T> Read(const T* from, size_t n) {
    std::vector<T> values(n);
    EXPECT_CUDA_OK(cudaMemcpy(values.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

  const ModelConfig config_ = TwoClasses();
  const StateLayout layout_{config_};
};

// The numbers of pages lie one behind the other, and each text's tables say where.
TEST_F(DeviceBatchTest, EachTextFindsItsPages) {
  ASSERT_EQ(layout_.page_classes.size(), 2u);
  const auto batch = Make(8);
  const std::vector<int> positions = {0, 700, 33, 1023};
  const int n = static_cast<int>(positions.size());
  const auto page = [](int text, int c, int p) { return text * 1000 + c * 500 + p; };
  std::vector<std::vector<int32_t>> pages;
  for (int i = 0; i < n; ++i) {
    for (int c = 0; c < 2; ++c) {
      pages.emplace_back();
      for (int p = 0; p < 200; ++p) pages.back().push_back(page(i, c, p));
    }
  }
  std::vector<PageTable> tables;
  for (const auto& numbers : pages) tables.push_back({numbers.data(), 1 << 20});
  std::vector<Span> spans(n);
  const std::vector<int32_t> tokens = {5, 6, 7, 8};
  for (int i = 0; i < n; ++i) {
    spans[i].first_token = i;
    spans[i].num_tokens = spans[i].num_logits = 1;
    spans[i].position = positions[i];
    spans[i].pages = &tables[2 * i];
  }
  const Batch step = {tokens.data(), n, spans.data(), n};
  for (const int places : {n, 8}) {
    gpu::StepSize size = Sampled(places);
    size.max_context = 1024;
    ASSERT_TRUE(batch->Upload(step, {}, size, 0, stream_).ok());
    Wait();
    EXPECT_EQ(Read(batch->tokens(), n), tokens);
    EXPECT_EQ(Read(batch->rows(), n), std::vector<int32_t>({0, 1, 2, 3}));
    const BatchView view = batch->View();
    EXPECT_EQ(view.num_spans, places);
    for (int c = 0; c < 2; ++c) {
      const std::vector<PageTable> on_device = Read(batch->tables()[c], places);
      for (int i = 0; i < places; ++i) {
        EXPECT_EQ(Read(view.spans, places)[i].num_tokens, i < n ? 1 : 0);
        if (i >= n) continue;
        const int used = layout_.page_classes[c].PagesFor(positions[i] + 1);
        const std::vector<int32_t> found = Read(on_device[i].pages, used);
        for (int p = 0; p < used; ++p) ASSERT_EQ(found[p], page(i, c, p)) << i << " " << c;
      }
    }
  }
}

// Two steps are queued before the results of the first are looked at; for the second one's list the
// memory has to grow.
TEST_F(DeviceBatchTest, ListsThatGrowTheMemoryLeaveTheStepBeforeAsItIs) {
  constexpr int kPlaces = 2;
  std::vector<float> logits;
  for (int i = 0; i < kPlaces * kVocab; ++i) logits.push_back(static_cast<float>(i % kVocab));
  std::vector<std::unique_ptr<DeviceArray<float>>> edited;  // Of each step.
  std::vector<std::unique_ptr<DeviceArray<SampledToken>>> sampled;

  const auto batch = Make(kPlaces);
  const std::vector<int32_t> few = {7};
  std::vector<int32_t> many(400'000, 7);
  many.back() = 6;
  const auto step = [&](int turn, const std::vector<int32_t>& banned) {
    SamplingRow row;
    row.num_ids = kVocab;
    row.banned = banned;
    bool moved = false;
    EXPECT_TRUE(batch->Reserve(SamplingListBytes(row), stream_, &moved).ok());
    EXPECT_TRUE(batch->Upload(Batch(), {row}, Sampled(kPlaces), turn, stream_).ok());
    edited.push_back(std::make_unique<DeviceArray<float>>(logits));
    sampled.push_back(std::make_unique<DeviceArray<SampledToken>>(kPlaces));
    EXPECT_TRUE(gpu::Sample(batch->sampling(), kPlaces, kVocab, edited.back()->data(),
                            sampled.back()->data(), stream_)
                    .ok());
    return moved;
  };
  const auto expect = [&](int step, int32_t token) {
    const SampledToken found = sampled[step]->Get()[0];
    EXPECT_EQ(found.status, SampledToken::Status::kOk) << step;
    EXPECT_EQ(found.token, token) << step;
  };
  EXPECT_FALSE(step(0, few));
  EXPECT_TRUE(step(1, many));
  EXPECT_GE(batch->bytes(), many.size() * sizeof(int32_t));
  Wait();
  expect(0, 6);
  expect(1, 5);
  EXPECT_FALSE(step(0, many)) << "grown twice";
  Wait();
  expect(2, 5);
}

TEST_F(DeviceBatchTest, MoreThanCanBePackedIsRefused) {
  const auto batch = Make(1);
  const size_t bytes = batch->bytes();
  bool moved = true;
  const absl::Status status = batch->Reserve(gpu::kMostPackedBytes, stream_, &moved);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_FALSE(moved);
  EXPECT_EQ(batch->bytes(), bytes);
}

#ifdef PACKRAT_EMULATED

// A step's copy is as long as what the step has.
TEST_F(DeviceBatchTest, OnlyWhatAStepUsesIsCopied) {
  const auto batch = Make(8);
  const std::vector<int32_t> pages(200, 3), banned(25, 3);
  const PageTable tables[] = {{pages.data(), 1 << 20}, {pages.data(), 1 << 20}};
  const auto bytes_of = [&](int position, absl::Span<const int32_t> list) {
    const int32_t token = 5;
    Span span;
    span.num_tokens = span.num_logits = 1;
    span.position = position;
    span.pages = tables;
    gpu::StepSize size = Sampled(1);
    size.max_context = 1024;
    SamplingRow row;
    row.num_ids = kVocab;
    row.banned = list;
    const emulation::Counters before = emulation::counters;
    EXPECT_TRUE(batch->Upload({&token, 1, &span, 1}, {row}, size, 0, stream_).ok());
    Wait();
    EXPECT_EQ(emulation::counters.uploads, before.uploads + 1);
    return emulation::counters.uploaded_bytes - before.uploaded_bytes;
  };
  const int64_t least = bytes_of(0, {});
  int pages_more = 0;
  for (const PageClass& c : layout_.page_classes) pages_more += c.PagesFor(701) - c.PagesFor(1);
  EXPECT_GT(pages_more, 0);
  EXPECT_EQ(bytes_of(700, {}), least + pages_more * 4);
  EXPECT_EQ(bytes_of(0, banned), least + 25 * 4);
}

TEST_F(DeviceBatchTest, WithoutMemoryEverythingStaysAsItWas) {
  const auto batch = Make(1);
  const size_t bytes = batch->bytes(), memory = emulation::machine.memory;
  size_t free = 0, total = 0;
  EXPECT_CUDA_OK(cudaMemGetInfo(&free, &total));
  // There is room for what is needed, but not for lists twice as long as there were.
  constexpr size_t kLists = 2048, kNeeded = 3000;
  const size_t others = bytes - kLists;
  emulation::machine.memory = memory - free + others + kNeeded - 1;
  bool moved = true;
  absl::Status status = batch->Reserve(kNeeded, stream_, &moved);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_FALSE(moved);
  EXPECT_EQ(batch->bytes(), bytes);
  emulation::machine.memory = memory - free + others + kNeeded;
  status = batch->Reserve(kNeeded, stream_, &moved);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(moved);
  EXPECT_EQ(batch->bytes(), others + kNeeded);
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess) << "left for the next launch to find";
  emulation::machine.memory = memory;
}

#endif  // PACKRAT_EMULATED

}  // namespace
}  // namespace packrat
