#include "kernels/rat.h"

#include "tests/kernels/rat_reference.h"
#include "tests/kernels/tail_feed.h"

namespace packrat {
namespace {

template <class T>
class RatTest : public TextsTest {
 protected:
  static constexpr Storage kStorage{sizeof(T) == 2};

  static RatLayer MakeLayer(Random* random, const RatShape& shape, const std::vector<int>& lengths,
                            float scale = 1.0f) {
    return RatLayer(random, shape, lengths, scale, kStorage, kDotRoundings);
  }

  Outputs Feed(const RatLayer& layer, Cut cut, uint64_t seed = 7) {
    const RatShape& s = layer.shape;
    std::vector<int> rings, used;
    int tokens = 1;
    for (const RatText& text : layer.texts) {
      used.push_back(text.length / s.chunk_size);
      rings.push_back(std::max(1, used.back()));
      tokens += text.length + 3;
    }
    TailFeed feed(layer.texts, cut, seed, RatTailFloats(s.num_heads, s.head_dim));
    DevicePages<T> pages(feed.random(), RatPageFloats(s.num_heads, s.head_dim), rings);
    const DeviceArray<float> gate_bias(layer.gate_bias);
    Scratch scratch(PACKRAT_SCRATCH(
        gpu::RatScratchBytes(s, Stored<T>::kType, static_cast<int>(2 * rings.size()), tokens),
        RatScratchFloats(s.head_dim)));
    scratch.Zero();
    const int width = s.num_heads * s.head_dim;
    Outputs outputs = feed.template Run<T>(width, [&](const DeviceStep& step, T* out) {
      const DeviceArray<T> projection(
          Stored<T>::From(feed.Gather(step, &RatText::projection, s.projection())));
      const DeviceArray<float> rope(step.Rope(kRopeBase, s.head_dim, s.chunk_size));
      const StatePages tables = pages.For(step);
      const RatOperands operands{projection.data(), gate_bias.data(), rope.data(), out,
                                 Stored<T>::kType};
      return Run(scratch, PACKRAT_WORK(step, gpu::RatKind(s, Stored<T>::kType)),
                 [&](auto... device) {
                   return ops::Rat(s, step.batch(), tables, feed.tails(), operands, device...);
                 });
    });
    pages.ExpectOthersIntact(used, s.head_dim, PadTo16(s.head_dim));
    scratch.ExpectGuardsIntact();
    return outputs;
  }

  void ExpectRightInEveryCut(const RatLayer& layer) {
    const RatShape& s = layer.shape;
    SCOPED_TRACE(testing::Message()
                 << "heads " << s.num_heads << " groups " << s.num_groups << " dim " << s.head_dim
                 << " chunk " << s.chunk_size << " text " << layer.texts[0].length);
    ForEachDevice([&] {
      TextsTest::ExpectRightInEveryCut(
          layer.texts, [&](Cut cut, uint64_t seed) { return Feed(layer, cut, seed); });
    });
  }
};
TYPED_TEST_SUITE(RatTest, ActivationTypes);

TYPED_TEST(RatTest, MeetsTheReferenceInEveryCut) {
  Random random(1);
  std::vector<int> dims = {2, 6, 34, 64, 66, 128, 256};
  if (kOnCpu) dims.insert(dims.end(), {8, 14, 16, 18, 24, 30, 32, 10, 12, 20, 130, 48});
  for (const int dim : dims) {
    const int heads = random.Int(1, kOnCpu ? 5 : 3), groups = random.Int(1, heads);
    const int chunk = random.OneOf<int>({1, 2, 3, 5, 16});
    std::vector<int> lengths(random.Int(2, 3));
    for (int& length : lengths) length = random.Int(1, kOnCpu ? 90 : 45);
    this->ExpectRightInEveryCut(this->MakeLayer(&random, {heads, groups, dim, chunk}, lengths,
                                                random.OneOf<float>({0.3f, 1.0f, 3.0f})));
    if (this->HasFailure()) return;
  }
}

TYPED_TEST(RatTest, ChunkLengths) {
  Random random(2);
  std::vector<int> chunks = {1, 2, 15, 16, 17, 40};
  if (kOnCpu) {
    chunks.resize(40);
    std::iota(chunks.begin(), chunks.end(), 1);
  }
  for (const int chunk : chunks) {
    this->ExpectRightInEveryCut(
        this->MakeLayer(&random, {3, 2, 10, chunk}, {2 * chunk + 1, chunk, 1}));
    if (this->HasFailure()) return;
  }
}

// Several splits, which decoding on a GPU deals to several blocks, full ones and not; on the CPU
// more than one and than two tiles of the softmax.
TYPED_TEST(RatTest, ManyChunks) {
  Random random(3);
  this->ExpectRightInEveryCut(this->MakeLayer(&random, {2, 1, 12, 1}, {135, 64}));
  this->ExpectRightInEveryCut(this->MakeLayer(&random, {1, 1, 130, 1}, {100}));
  if (!kOnCpu) return;
  this->ExpectRightInEveryCut(this->MakeLayer(&random, {2, 1, 12, 2}, {1100}));
  this->ExpectRightInEveryCut(this->MakeLayer(&random, {1, 1, 8, 1}, {258, 257, 255}));
}

// More splits than runs: a run has one, two, three and four. Pages are given; of the text only the
// last tokens are fed, as a piece and one by one.
TYPED_TEST(RatTest, LongRuns) {
  using S = Stored<TypeParam>;
  const RatShape s = {1, 1, 16, 1};
  const int dim = 16, num = 4;
  Random random(4);
  for (const int position : {64 * 64 - 2, 128 * 64 - 1, 192 * 64 - 2}) {
    const int length = position + num;
    // A gate of zero: the running chunk is the token's own key and value.
    DeviceArray<float> gate_bias(std::vector<float>(dim, -300.0f));
    DevicePages<TypeParam> pages(&random, RatPageFloats(1, dim), {length});
    const std::vector<float> entries = pages.Fill(&random);
    DeviceTails tails(&random, RatTailFloats(1, dim), 1);
    Scratch scratch(PACKRAT_SCRATCH(gpu::RatScratchBytes(s, Stored<TypeParam>::kType, 4, 10),
                                    RatScratchFloats(dim)));
    scratch.Zero();
    // Only rows from `position` on are looked at.
    std::vector<float> text(static_cast<size_t>(length) * s.projection());
    const std::vector<float> fed = this->kStorage(random.Normals(num * s.projection()));
    std::copy(fed.begin(), fed.end(), text.end() - static_cast<ptrdiff_t>(fed.size()));
    const auto feed = [&](int first, int n, Outputs* outputs) {
      const DeviceStep step(&random, {{0, n, first}}, tails.places());
      DeviceArray<TypeParam> projection(S::From(step.Gather({&text}, s.projection())));
      DeviceArray<float> rope(step.Rope(kRopeBase, dim, 1));
      DeviceArray<TypeParam> out(static_cast<size_t>(step.num_tokens()) * dim);
      const StatePages tables = pages.For(step);
      const RatOperands operands{projection.data(), gate_bias.data(), rope.data(), out.data(),
                                 S::kType};
      EXPECT_TRUE(this->Run(scratch, PACKRAT_WORK(step, gpu::RatKind(s, Stored<TypeParam>::kType)),
                            [&](auto... device) {
                              return ops::Rat(s, step.batch(), tables, tails.parts(), operands,
                                              device...);
                            })
                      .ok());
      step.Scatter(out.Get(), dim, outputs);
    };
    Outputs whole(1);
    feed(position, num, &whole);
    this->ForEachOrder([&] {
      Outputs single(1);
      for (int t = 0; t < num; ++t) feed(position + t, 1, &single);
      EXPECT_EQ(single, whole);
    });
    const float *v = &fed[dim], *q = &fed[3 * dim], *k = &fed[4 * dim];
    SoftmaxList list(Rotated(q, dim, position, kRopeBase), kDotRoundings);
    for (int c = 0; c < position; ++c) {
      const float* entry = &entries[static_cast<size_t>(c) * 2 * dim];
      list.Add(Vector(entry, entry + dim), Vector(entry + dim, entry + 2 * dim), 0, Vector(dim));
    }
    list.Add(Rotated(k, dim, position, kRopeBase), Vector(v, v + dim), 0, Vector(dim));
    Vector expected, tolerance;
    list.Finish(&expected, &tolerance);
    for (int d = 0; d < dim; ++d) {
      const double y = Sigmoid(fed[d]) * expected[d];
      ASSERT_NEAR(
          whole[0][d], y,
          tolerance[d] + (6 * kUnit + this->kStorage.rounding()) * (std::fabs(y) + tolerance[d]));
    }
  }
}

// A long text among short ones: whichever blocks of a GPU share it, each text's bits are those that
// it has alone. Sixteen heads make lists of several rounds of few items.
TYPED_TEST(RatTest, LengthsOfOthersChangeNoBits) {
  using S = Stored<TypeParam>;
  const RatShape s = {16, 1, 16, 1};
  const int width = 16 * 16;
  Random random(7);
  const std::vector<int> positions = MixedPositions(&random);
  std::vector<int> rings;
  std::vector<std::vector<float>> projections;
  std::vector<const std::vector<float>*> texts;
  for (const int position : positions) {
    rings.push_back(position + 1);
    projections.emplace_back(static_cast<size_t>(position) * s.projection());
    const std::vector<float> last = random.Normals(s.projection());
    projections.back().insert(projections.back().end(), last.begin(), last.end());
  }
  for (const std::vector<float>& projection : projections) texts.push_back(&projection);
  DeviceArray<float> gate_bias(random.Normals(width));
  DevicePages<TypeParam> pages(&random, RatPageFloats(16, 16), rings);
  pages.Fill(&random);
  DeviceTails tails(&random, RatTailFloats(16, 16), positions.size());
  this->ExpectBitsAlone(positions, [&](const std::vector<Rows>& rows) {
    const DeviceStep step(&random, rows, tails.places());
    Scratch scratch(PACKRAT_SCRATCH(
        gpu::RatScratchBytes(s, Stored<TypeParam>::kType, step.num_spans(), step.num_tokens()),
        RatScratchFloats(16)));
    scratch.Zero();
    DeviceArray<TypeParam> projection(S::From(step.Gather(texts, s.projection())));
    DeviceArray<float> rope(step.Rope(kRopeBase, 16, 1));
    DeviceArray<TypeParam> out(static_cast<size_t>(step.num_tokens()) * width);
    const StatePages tables = pages.For(step);
    const RatOperands operands{projection.data(), gate_bias.data(), rope.data(), out.data(),
                               S::kType};
    const auto run = [&](auto... device) {
      return ops::Rat(s, step.batch(), tables, tails.parts(), operands, device...);
    };
    EXPECT_TRUE(
        this->Run(scratch, PACKRAT_WORK(step, gpu::RatKind(s, Stored<TypeParam>::kType)), run)
            .ok());
    scratch.ExpectGuardsIntact();
    Outputs outputs(positions.size());
    step.Scatter(out.Get(), width, &outputs);
    return outputs;
  });
}

TYPED_TEST(RatTest, SaturatedGates) {
  for (const float bias : {300.0f, 20.0f, -20.0f, -300.0f}) {
    Random random(5);
    RatLayer layer = this->MakeLayer(&random, {2, 2, 10, 6}, {33});
    std::fill(layer.gate_bias.begin(), layer.gate_bias.end(), bias);
    for (int head = 0; head < 2; ++head) {
      RunHead(layer.shape, layer.gate_bias, head, &layer.texts[0], this->kStorage, kDotRoundings);
    }
    this->ExpectRightInEveryCut(layer);
  }
}

TYPED_TEST(RatTest, NaNStaysInItsSequenceAndIsSeenThere) {
  Random random(6);
  const RatLayer layer = this->MakeLayer(&random, {4, 2, 24, 8}, {37, 37, 37});
  const int width = 4 * 24;
  for (const auto& [token, cut] : {std::pair(21, Cut::kWhole),
                                   {21, Cut::kSingle},
                                   {21, Cut::kRandom},
                                   {21, Cut::kAlone},
                                   // In the first chunk a token has no score but its own.
                                   {3, Cut::kWhole},
                                   {3, Cut::kSingle}}) {
    const int at = token;  // Bindings cannot be captured.
    const Cut how = cut;
    this->ForEachDevice([&] {
      const Outputs clean = this->Feed(layer, how);
      // One column of each part: z, v, g, q, k.
      for (const int column :
           {5, width + 5, 2 * width + 5, 3 * width + 5, 3 * width + 2 * 24 + 5}) {
        RatLayer bad = layer;
        bad.texts[1].projection[at * layer.shape.projection() + column] = kNaN;
        const Outputs dirty = this->Feed(bad, how);
        SCOPED_TRACE(testing::Message() << "cut " << static_cast<int>(how) << " column " << column);
        // What comes later changes nothing of what came before; on a GPU not even in the same
        // piece.
        ExpectNaNIsSeenAlone(clean, dirty, at, width, !kOnCpu || how == Cut::kSingle);
      }
    });
  }
}

}  // namespace
}  // namespace packrat
