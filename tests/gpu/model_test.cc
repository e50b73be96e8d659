// The whole model on a GPU: graphs, sampling, faults, and that nothing is allocated while decoding.
// golden_test.cc has the golden cases.
#include "models/gpu/model.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "models/cpu_model.h"
#include "models/owned_state.h"
#include "tests/gpu/gpu.h"
#include "tests/models/golden.h"
#include "tests/models/mixed_dials.h"

namespace packrat {
namespace {

ModelOptions Options(int tokens) {
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = tokens;
  options.max_context = 1024;
  return options;
}

std::unique_ptr<LanguageModel> Load(const std::string& dir, const gpu::GpuOptions& gpu_options,
                                    int tokens = 256) {
  auto model = gpu::LoadGpuModel(dir, Options(tokens), gpu_options);
  EXPECT_TRUE(model.ok()) << model.status();
  return std::move(*model);
}

gpu::GpuOptions Deterministic(bool graphs = true) {
  gpu::GpuOptions options;
  options.deterministic = true;
  options.graphs = graphs;
  return options;
}

class GpuModelTest : public GpuTest {};

// Activations are rounded to eight bits at eight places of a layer (two norms, the products,
// queries and keys after their norm, attention, the feed-forward's two) and before the last
// product.
TEST_F(GpuModelTest, StoredInBFloat16) {
  const Golden golden = ReadGolden("qwen3");
  const auto model = Load("tests/golden/qwen3", Deterministic());
  const auto whole = Feed(model.get(), golden, false, [] { return 1000; });
  const int roundings = 8 * 2 + 1;
  EXPECT_LT(RelativeError(whole, golden.logits), roundings * 0x1p-9);
  std::mt19937 random(7);
  const auto any = [&] { return 1 + static_cast<int>(random() % 40); };
  EXPECT_TRUE(SameBits(whole, Feed(model.get(), golden, true, any)));
  EXPECT_TRUE(SameBits(whole, Feed(model.get(), golden, true, [] { return 1; })));
}

// Of few rows norms are made inside of products, of many beside them: here with biases, and with a
// second product of one norm, in float32.
TEST_F(GpuModelTest, InBFloat16FewRowsHaveTheBitsOfMany) {
  for (const std::string name : {"qwen2", "granite_h"}) {
    const Golden golden = ReadGolden(name);
    const auto model = Load("tests/golden/" + name, Deterministic());
    const auto whole = Feed(model.get(), golden, false, [] { return 1000; });
    EXPECT_TRUE(SameBits(whole, Feed(model.get(), golden, true, [] { return 1; }))) << name;
  }
}

// Greedy decoding of several sequences by Start() and Wait().
class Decoder {
 public:
  Decoder(LanguageModel* model, int sequences, int max_tokens)
      : model_(model),
        state_(*OwnedState::Create(model, sequences, max_tokens)),
        position_(sequences, 0),
        last_(sequences, 1) {
    state_->Poison();
  }
  // Feeds `n` tokens to each of `sequences` (their last token, over and over) and samples one.
  std::vector<int32_t> Step(const std::vector<int>& sequences, int n, float temperature = 0) {
    Start(sequences, n, temperature);
    return Wait();
  }
  // The halves of Step(). Where the step before has not been waited for, the sequences go on with
  // what it samples, which `n` = 1 of them take.
  void Start(const std::vector<int>& sequences, int n, float temperature = 0) {
    std::vector<int32_t> tokens;
    const std::vector<int> before = started_.empty() ? std::vector<int>() : started_.back();
    std::vector<Span> spans;
    std::vector<SamplingRow> rows;
    for (int s : sequences) {
      spans.push_back(state_->SpanFor(s, static_cast<int>(tokens.size()), n, position_[s]));
      spans.back().num_logits = 1;
      const auto row = std::find(before.begin(), before.end(), s);
      const int32_t drawn = SampledInRow(static_cast<int>(row - before.begin()));
      tokens.insert(tokens.end(), n, row != before.end() ? drawn : last_[s]);
      position_[s] += n;
      rows.emplace_back();
      rows.back().num_ids = model_->config().vocab_size;
      rows.back().temperature = temperature;
      rows.back().seed = 5;
      rows.back().position = position_[s];
      rows.back().banned = banned;
    }
    status = model_->Start({tokens.data(), static_cast<int>(tokens.size()), spans.data(),
                            static_cast<int>(spans.size())},
                           state_->memory(), rows);
    started_.push_back(sequences);
  }
  std::vector<int32_t> Wait() {
    const std::vector<int> sequences = started_.front();
    started_.pop_front();
    std::vector<SampledToken> sampled(sequences.size());
    stats.assign(sequences.size(), SpanStats());
    if (status.ok()) status = model_->Wait(stats.data(), sampled.data());
    std::vector<int32_t> drawn;
    for (size_t i = 0; i < sequences.size() && status.ok(); ++i) {
      EXPECT_TRUE(!stats[i].finite || sampled[i].status == SampledToken::Status::kOk);
      drawn.push_back(sampled[i].token);
      last_[sequences[i]] = sampled[i].token;
    }
    return drawn;
  }
  void set_position(int sequence, int position) { position_[sequence] = position; }
  absl::Status status;
  std::vector<SpanStats> stats;
  std::vector<int32_t> banned;  // From all rows that are sampled from here on.

 private:
  LanguageModel* model_;
  std::unique_ptr<OwnedState> state_;
  std::vector<int> position_;
  std::vector<int32_t> last_;
  std::deque<std::vector<int>> started_;  // And not waited for.
};

constexpr char kModel[] = "tests/golden/packrat";

// So that what these tests say is of pages in planes, and of whole ones where a class has one
// layer.
TEST_F(GpuModelTest, PagesOfSeveralLayersAreInPlanes) {
  int planes = 0, whole = 0;
  for (const char* dir : {"tests/golden/rat", "tests/golden/llama", kModel}) {
    const auto model = Load(dir, gpu::GpuOptions());
    const auto state = *OwnedState::Create(model.get(), 2, 64);
    const auto& classes = model->state_layout().page_classes;
    for (size_t c = 0; c < classes.size(); ++c) {
      const PageMemory& pages = state->memory().pages[c];
      EXPECT_EQ(pages.plane_pages, classes[c].num_layers > 1 ? 2 * classes[c].PagesFor(64) : 0);
      ++(pages.plane_pages > 0 ? planes : whole);
    }
  }
  EXPECT_GT(planes, 1);
  EXPECT_GT(whole, 1);
}

// What a step would read is not what was to be copied there.
TEST_F(GpuModelTest, NoStepFollowsStateThatCouldNotBeCopied) {
  const auto model = Load(kModel, gpu::GpuOptions());
  const auto state = *OwnedState::Create(model.get(), 1, 64);
  const auto step = [&] {
    const int32_t token = 3;
    const Span span = state->SpanFor(0, 0, 1, 0);
    SpanStats stats;
    return model->Forward({&token, 1, &span, 1}, state->memory(), &stats).status();
  };
  EXPECT_EQ(step(), absl::OkStatus());
  constexpr size_t kPage = 70000 * 64;  // Of more parts than a launch has blocks.
  const auto other = *model->AllocateState(2 * kPage);
  EXPECT_EQ(other->PlacePages(0, kPage, 64, 2).plane_pages, 2);
  other->Copy(0, kPage, kPage);
  EXPECT_EQ(step().code(), absl::StatusCode::kInternal);
}

// The caller's array of addresses may stay where it is and say something else.
TEST_F(GpuModelTest, GraphsGoByTheAddressesOfPages) {
  const auto model = Load("tests/golden/packrat", gpu::GpuOptions());
  const auto state = *OwnedState::Create(model.get(), 1, 64);
  const auto poisoned = *OwnedState::Create(model.get(), 1, 64);
  poisoned->Poison();
  const size_t classes = model->state_layout().page_classes.size();
  ASSERT_GT(classes, 0u);
  std::vector<PageMemory> pages(state->memory().pages, state->memory().pages + classes);
  StateMemory memory = state->memory();
  memory.pages = pages.data();
  int position = 0;
  const auto feed = [&](int n) {
    const std::vector<int32_t> tokens(n, 3);
    Span span = state->SpanFor(0, 0, n, position);
    span.num_logits = 1;
    position += n;
    SpanStats stats;
    EXPECT_TRUE(model->Forward({tokens.data(), n, &span, 1}, memory, &stats).ok());
    return stats.finite;
  };
  for (const int n : {20, 1, 1, 1}) EXPECT_TRUE(feed(n));
  std::copy_n(poisoned->memory().pages, classes, pages.begin());
  EXPECT_FALSE(feed(1)) << "a graph read the pages of before";
}

TEST_F(GpuModelTest, DialsMixedInABatchHaveTheBitsOfEachAlone) {
  ExpectDialsApart([](const ModelChoices& choices) {
    ModelOptions options = Options(256);
    options.choices = choices;
    auto model = gpu::LoadGpuModel("tests/golden/rat_plus", options, Deterministic());
    EXPECT_TRUE(model.ok()) << model.status();
    return std::move(*model);
  });
}

TEST_F(GpuModelTest, CompanyChangesNothing) {
  const auto model = Load(kModel, Deterministic());
  Decoder alone(model.get(), 1, 300), company(model.get(), 5, 300);
  std::vector<int32_t> expected = alone.Step({0}, 7, 0.8f), got = company.Step({0}, 7, 0.8f);
  for (int step = 0; step < 40; ++step) {
    expected.push_back(alone.Step({0}, 1, 0.8f)[0]);
    std::vector<int> members = {0};
    for (int s = 1; s <= step % 5; ++s) members.insert(members.begin() + step % 2, s);
    const auto drawn = company.Step(members, 1, 0.8f);
    got.push_back(
        drawn[members[0] == 0 ? 0
                              : std::find(members.begin(), members.end(), 0) - members.begin()]);
  }
  EXPECT_EQ(got, expected);
}

// With one step always in flight, sequences that come, change places and leave.
TEST_F(GpuModelTest, AStepAheadSamplesTheSame) {
  const auto model = Load(kModel, Deterministic());
  EXPECT_EQ(model->max_steps_in_flight(), 2);
  // Another model: a change of state would wait for what is in flight.
  const auto other = Load(kModel, Deterministic());
  Decoder plain(other.get(), 4, 300), ahead(model.get(), 4, 300);
  const auto members = [](int step) {
    std::vector<int> all = {0, 1, 2, 3};
    std::rotate(all.begin(), all.begin() + step % 4, all.end());
    all.resize(1 + step * 7 % 4);
    return all;
  };
  std::vector<std::vector<int32_t>> expected, got;
  for (Decoder* decoder : {&plain, &ahead}) decoder->Step({0, 1, 2, 3}, 9, 0.8f);
  ahead.Start(members(0), 1, 0.8f);
  for (int step = 0; step < 40; ++step) {
    expected.push_back(plain.Step(members(step), 1, 0.8f));
    ahead.Start(members(step + 1), 1, 0.8f);
    got.push_back(ahead.Wait());
    EXPECT_TRUE(plain.status.ok() && ahead.status.ok());
  }
  ahead.Wait();
  EXPECT_EQ(got, expected);
}

// A list longer than the memory for lists moves that memory, to which captured steps point.
TEST_F(GpuModelTest, AStepIsCapturedAgainWhenItsMemoryMoves) {
  gpu::GpuOptions uncaptured = Deterministic();
  uncaptured.graphs = false;
  const auto model = Load(kModel, Deterministic()), other = Load(kModel, uncaptured);
  Decoder captured(model.get(), 2, 300), plain(other.get(), 2, 300);
  const size_t scratch_before = model->scratch_bytes();
  for (const size_t banned : {0, 0, 0, 400'000, 1, 0, 0}) {
    for (Decoder* decoder : {&captured, &plain}) decoder->banned.assign(banned, 3);
    for (const auto& m : {model.get(), other.get()}) {
      EXPECT_TRUE(m->ReserveSampling(2 * banned * sizeof(int32_t)).ok());
    }
    EXPECT_EQ(captured.Step({0, 1}, 1, 0.8f), plain.Step({0, 1}, 1, 0.8f));
    EXPECT_TRUE(captured.status.ok()) << captured.status;
  }
  EXPECT_GE(model->scratch_bytes(), scratch_before + 400'000 * sizeof(int32_t));
}

// A sequence whose state is NaN fails alone.
TEST_F(GpuModelTest, BadStateFailsItsSequenceOnly) {
  const auto model = Load(kModel, Deterministic());
  Decoder clean(model.get(), 3, 300), dirty(model.get(), 3, 300);
  const std::vector<int> all = {0, 1, 2};  // In a step for four.
  const auto first = clean.Step(all, 20);
  EXPECT_EQ(dirty.Step(all, 20), first);
  dirty.set_position(2, 40);  // Reads what was never written.
  const auto expected = clean.Step(all, 1), got = dirty.Step(all, 1);
  ASSERT_TRUE(dirty.status.ok());
  EXPECT_TRUE(dirty.stats[0].finite);
  EXPECT_TRUE(dirty.stats[1].finite);
  EXPECT_FALSE(dirty.stats[2].finite);
  EXPECT_EQ(got[0], expected[0]);
  EXPECT_EQ(got[1], expected[1]);
}

TEST_F(GpuModelTest, SaysWhatItIs) {
  const auto model = Load(kModel, Deterministic());
  EXPECT_NE(model->numerics_id().find("cuda-sm"), std::string::npos);
  EXPECT_NE(model->numerics_id().find("deterministic"), std::string::npos);
  EXPECT_FALSE(model->device().empty());
  EXPECT_GT(model->weight_bytes(), 0u);
  EXPECT_GT(model->state_memory_limit(), 0u);
}

#ifdef PACKRAT_EMULATED

TEST_F(GpuModelTest, DecodingAllocatesNothingAndCapturesEachSizeOnce) {
  const auto model = Load(kModel, gpu::GpuOptions());
  Decoder decoder(model.get(), 3, 300);
  decoder.Step({0, 1, 2}, 20);
  for (int time = 0; time < 2; ++time) {  // The first step of a size runs uncaptured.
    decoder.Step({0, 1, 2}, 1);
    decoder.Step({0}, 1);
  }
  const emulation::Counters before = emulation::counters;
  for (int step = 0; step < 20; ++step) {
    decoder.Step({0, 1, 2}, 1);
    decoder.Step({2, 0, 1}, 1);  // Another order, and two more sizes that round up to known ones.
    decoder.Step({1}, 1);
  }
  EXPECT_EQ(emulation::counters.allocations, before.allocations);
  EXPECT_EQ(emulation::counters.captures, before.captures);
  EXPECT_EQ(emulation::counters.graph_launches, before.graph_launches + 60);
  EXPECT_EQ(emulation::counters.synchronisations, before.synchronisations + 60)
      << "a step waits once";
}

// Captured or not, with prompts, lists of what may be sampled, and dials.
TEST_F(GpuModelTest, AStepIsOneCopyUpAndOneDown) {
  for (const std::string dir : {"packrat", "recurrent_gemma", "rat_plus"}) {
    const auto model = Load("tests/golden/" + dir, gpu::GpuOptions());
    Decoder decoder(model.get(), 3, 300);
    const auto step = [&](const std::vector<int>& sequences, int n) {
      const emulation::Counters before = emulation::counters;
      decoder.Step(sequences, n);
      EXPECT_TRUE(decoder.status.ok()) << decoder.status;
      EXPECT_EQ(emulation::counters.uploads, before.uploads + 1) << dir;
      EXPECT_EQ(emulation::counters.downloads, before.downloads + 1) << dir;
    };
    step({0, 1, 2}, 20);
    decoder.banned = {3, 5, 8};
    const int64_t graphs = emulation::counters.graph_launches;
    for (int time = 0; time < 3; ++time) step({0, 1, 2}, 1);
    EXPECT_EQ(emulation::counters.graph_launches, graphs + 2);
  }
}

// Of up to eight rows of bfloat16 a layer's two norms and its gated linear unit are made by the
// products beside them.
TEST_F(GpuModelTest, FewRowsTakeFewerLaunches) {
  constexpr int kLayers = 2, kFewer = 3;
  const auto model = Load("tests/golden/qwen3", Deterministic());
  const auto launches = [&](int sequences) {
    std::vector<int> all(sequences);
    for (int s = 0; s < sequences; ++s) all[s] = s;
    Decoder decoder(model.get(), sequences, 20);
    decoder.Step(all, 3);
    const int64_t before = emulation::counters.launches;
    decoder.Step(all, 1);
    EXPECT_TRUE(decoder.status.ok()) << decoder.status;
    return emulation::counters.launches - before;
  };
  const int64_t many = launches(9);
  for (const int few : {1, 3, 8}) EXPECT_EQ(launches(few), many - kFewer * kLayers) << few;
}

// Tools look into a model on either device. Rounded-up places are not of the batch.
TEST_F(GpuModelTest, ActivationsAreThoseOfTheCpu) {
  const Golden golden = ReadGolden("packrat");
  const auto observed = [&](bool on_gpu) {
    std::vector<std::vector<float>> seen;
    ModelOptions options = Options(64);
    size_t width = 0;
    options.observe = [&](int, const float* x) { seen.emplace_back(x, x + width); };
    auto model = on_gpu ? gpu::LoadGpuModel(kModel, options, gpu::GpuOptions())
                        : LoadCpuModel(kModel, options);
    EXPECT_TRUE(model.ok()) << model.status();
    width = (*model)->config().hidden_size;
    Feed(model->get(), golden, false, [] { return 1; });
    return seen;
  };
  const auto cpu = observed(false), gpu = observed(true);
  ASSERT_EQ(gpu.size(), cpu.size());
  ASSERT_GT(cpu.size(), 0u);
  for (size_t i = 0; i < cpu.size(); ++i) EXPECT_LT(RelativeError(gpu[i], cpu[i]), 1e-4) << i;
}

// After an error of the device nothing it says counts, and the model stays failed.
TEST_F(GpuModelTest, AnErrorOfTheDeviceIsAStatusForEverything) {
  auto model = Load(kModel, gpu::GpuOptions());
  {
    Decoder decoder(model.get(), 1, 100);
    decoder.Step({0}, 3);
    ASSERT_TRUE(decoder.status.ok());
    emulation::FailNextWork(cudaErrorIllegalAddress);
    EXPECT_TRUE(decoder.Step({0}, 1).empty());
    EXPECT_EQ(decoder.status.code(), absl::StatusCode::kInternal);
    EXPECT_NE(decoder.status.message().find("cudaErrorIllegalAddress"), absl::string_view::npos);
    EXPECT_TRUE(decoder.Step({0}, 1).empty());
    EXPECT_FALSE(decoder.status.ok());
  }
  model.reset();
  emulation::Reset();
}

#endif  // PACKRAT_EMULATED

}  // namespace
}  // namespace packrat
