#include "kernels/rat_plus.h"

#include "tests/kernels/rat_reference.h"
#include "tests/kernels/tail_feed.h"

namespace packrat {
namespace {

// A row: queries, keys, values and gates of all heads.
int RowWidth(const RatPlusShape& s) { return 4 * s.width(); }

// Whether token t sees position p, in the words of the paper.
bool Sees(const RatPlusShape& s, int t, int p) {
  return p <= t &&
         (t - p <= s.window || p < s.sinks || (s.dilation > 0 && (p + 1) % s.dilation == 0));
}

// One head of one text, token by token in double precision.
void RunRatPlusHead(const RatPlusShape& s, int head, Storage storage, double dot_roundings,
                    RatText* text) {
  const int dim = s.head_dim, width = s.width();
  struct Entry {
    Vector key, value, value_error;
    double key_error;
  };
  std::vector<Entry> entries;
  Running key(dim), value(dim);
  // What is stored was computed before it is rounded.
  const auto stored = [&](const Vector& x, Vector error) {
    for (int d = 0; d < dim; ++d) error[d] += storage.rounding() * (std::fabs(x[d]) + error[d]);
    return error;
  };
  for (int t = 0; t < text->length; ++t) {
    const float* q = &text->projection[static_cast<size_t>(t) * RowWidth(s) + head * dim];
    for (int d = 0; d < dim; ++d) {
      key.Step(d, q[3 * width + d], q[width + d]);
      value.Step(d, q[3 * width + d], q[2 * width + d]);
    }
    Entry entry{Rotated(key.value.data(), dim, t, kRopeBase), value.value,
                stored(value.value, value.error), Norm(stored(key.value, key.error))};
    entry.key_error += storage.rounding() * (Norm(entry.key) + entry.key_error);
    entries.push_back(entry);
    SoftmaxList list(Rotated(q, dim, t, kRopeBase), dot_roundings);
    for (int p = 0; p <= t; ++p) {
      const Entry& e = entries[p];
      if (Sees(s, t, p)) list.Add(e.key, e.value, e.key_error, e.value_error);
    }
    Vector out, error;
    list.Finish(&out, &error);
    for (int d = 0; d < dim; ++d) {
      const size_t at = static_cast<size_t>(t) * width + head * dim + d;
      text->expected[at] = out[d];
      text->tolerance[at] = error[d] + storage.rounding() * (std::fabs(out[d]) + error[d]);
    }
  }
}

template <class T>
class RatPlusTest : public TextsTest {
 protected:
  struct Layer {
    RatPlusShape shape;
    std::deque<RatText> texts;
  };

  static Layer MakeLayer(Random* random, const RatPlusShape& s, const std::vector<int>& lengths,
                         float gate = 2.0f) {
    const Storage storage{sizeof(T) == 2};
    Layer layer{s, {}};
    for (const int length : lengths) {
      const auto size = static_cast<size_t>(length) * s.width();
      RatText text{length, random->Normals(4 * size), Vector(size), Vector(size)};
      for (int t = 0; t < length; ++t) {
        for (int d = 0; d < s.width(); ++d) {
          text.projection[static_cast<size_t>(t) * RowWidth(s) + 3 * s.width() + d] += gate;
        }
      }
      text.projection = storage(text.projection);
      for (int head = 0; head < s.num_heads; ++head) {
        RunRatPlusHead(s, head, storage, kDotRoundings, &text);
      }
      layer.texts.push_back(text);
    }
    return layer;
  }

  Outputs Feed(const Layer& layer, Cut cut, uint64_t seed = 7) {
    const RatPlusShape& s = layer.shape;
    std::vector<int> rings, used;
    int tokens = 1;
    for (const RatText& text : layer.texts) {
      used.push_back(s.dilation == 0 ? 0 : std::max<int>(0, text.length - s.delay()) / s.dilation);
      rings.push_back(std::max(1, used.back()));
      tokens += text.length + 3;
    }
    TailFeed feed(layer.texts, cut, seed, RatPlusTailBytes(s, sizeof(T)) / sizeof(float));
    DevicePages<T> pages(feed.random(), RatPageFloats(s.num_heads, s.head_dim), rings);
    Scratch scratch(PACKRAT_SCRATCH(gpu::RatPlusScratchBytes(s, Stored<T>::kType, tokens, tokens),
                                    RatPlusScratchFloats(s.head_dim)));
    scratch.Zero();
    Outputs outputs = feed.template Run<T>(s.width(), [&](const DeviceStep& step, T* out) {
      const DeviceArray<T> q(Stored<T>::From(feed.Gather(step, &RatText::projection, RowWidth(s))));
      const DeviceArray<float> rope(step.Rope(kRopeBase, s.head_dim, 1));
      const auto part = [&](int i) { return q.data() + i * s.width(); };
      const RatPlusOperands average{part(1), part(2), part(3), RowWidth(s), Stored<T>::kType};
      const absl::Status status = Run([&](auto... device) {
        return ops::RatPlusAverage(s, step.batch(), feed.tails(), average, device...);
      });
      if (!status.ok()) return status;
      const AttentionOperands operands{part(0),     part(1), part(2),         RowWidth(s),
                                       rope.data(), out,     Stored<T>::kType};
      const StatePages tables = s.dilation == 0 ? StatePages() : pages.For(step);
      return Run(scratch, PACKRAT_WORK(step, gpu::RatPlusKind(s, Stored<T>::kType)),
                 [&](auto... device) {
                   return ops::RatPlusAttention(s, step.batch(), tables, feed.tails(), operands,
                                                device...);
                 });
    });
    pages.ExpectOthersIntact(used, s.head_dim, PadTo16(s.head_dim));
    scratch.ExpectGuardsIntact();
    return outputs;
  }

  void ExpectRightInEveryCut(const Layer& layer) {
    const RatPlusShape& s = layer.shape;
    SCOPED_TRACE(testing::Message()
                 << "heads " << s.num_heads << " dim " << s.head_dim << " dilation " << s.dilation
                 << " window " << s.window << " sinks " << s.sinks);
    ForEachDevice([&] {
      TextsTest::ExpectRightInEveryCut(
          layer.texts, [&](Cut cut, uint64_t seed) { return Feed(layer, cut, seed); });
    });
  }
};
TYPED_TEST_SUITE(RatPlusTest, ActivationTypes);

// Every kind of dial: windows below and above a tile and a stretch, sinks beyond a stretch and
// beyond the text, stretches that are no power of two, none at all.
TYPED_TEST(RatPlusTest, MeetsTheReferenceInEveryCut) {
  Random random(1);
  const int dials[][3] = {{4, 0, 0},  {16, 0, 0}, {16, 8, 0},  {16, 8, 4}, {4, 5, 6},
                          {0, 12, 4}, {7, 3, 0},  {3, 20, 1},  {2, 33, 9}, {0, 0, 0},
                          {5, 0, 7},  {0, 0, 90}, {50, 40, 3}, {9, 1, 0}};
  for (const auto& [dilation, window, sinks] : dials) {
    const int dim = random.OneOf<int>({2, 6, 10, 16, 34});
    std::vector<int> lengths = {random.Int(40, kOnCpu ? 90 : 50), random.Int(1, kOnCpu ? 30 : 9)};
    this->ExpectRightInEveryCut(this->MakeLayer(
        &random, {random.Int(1, kOnCpu ? 3 : 2), dim, dilation, window, sinks}, lengths));
    if (this->HasFailure()) return;
  }
}

TYPED_TEST(RatPlusTest, HeadDimensions) {
  Random random(2);
  for (const int dim :
       kOnCpu ? std::vector<int>{14, 18, 64, 66, 128, 256} : std::vector<int>{14, 66, 256}) {
    this->ExpectRightInEveryCut(
        this->MakeLayer(&random, {kOnCpu ? 2 : 1, dim, 5, 4, 2}, {kOnCpu ? 35 : 20}));
    if (this->HasFailure()) return;
  }
}

// Several tiles, or splits, both of what has left the window and of the window.
TYPED_TEST(RatPlusTest, ManyEntries) {
  Random random(3);
  this->ExpectRightInEveryCut(this->MakeLayer(&random, {1, 8, 2, 70, 3}, {kOnCpu ? 300 : 210}));
  if (kOnCpu) {
    this->ExpectRightInEveryCut(this->MakeLayer(&random, {1, 8, 2, 270, 3}, {860}));
    return;
  }
  // On the emulated device's four multiprocessors: three runs for two or three blocks, and for one.
  this->ExpectRightInEveryCut(this->MakeLayer(&random, {4, 8, 2, 70, 3}, {150}));
  this->ExpectRightInEveryCut(this->MakeLayer(&random, {13, 8, 2, 70, 3}, {140}));
}

TYPED_TEST(RatPlusTest, SaturatedGates) {
  Random random(4);
  for (const float gate : {300.0f, -300.0f}) {
    this->ExpectRightInEveryCut(this->MakeLayer(&random, {2, 10, 6, 3, 1}, {33}, gate));
  }
}

TYPED_TEST(RatPlusTest, NaNStaysInItsSequenceAndIsSeenThere) {
  Random random(5);
  const auto layer = this->MakeLayer(&random, {2, 24, 8, 5, 2}, {37, 37, 37});
  const int width = layer.shape.width(), token = 21;
  for (const Cut cut : kCuts) {
    this->ForEachDevice([&] {
      const Outputs clean = this->Feed(layer, cut);
      for (int part = 0; part < 4; ++part) {
        auto bad = layer;
        bad.texts[1].projection[token * RowWidth(layer.shape) + part * width + 5] = kNaN;
        const Outputs dirty = this->Feed(bad, cut);
        SCOPED_TRACE(testing::Message() << "cut " << static_cast<int>(cut) << " part " << part);
        ExpectNaNIsSeenAlone(clean, dirty, token, width, !kOnCpu || cut == Cut::kSingle);
      }
    });
  }
}

// The number of entries that the authors' cache holds: what is kept of positions beyond the window,
// and the window.
TEST(RatPlusShape, KeepsWhatTheDefinitionSays) {
  for (const int dilation : {0, 2, 3, 7, 16}) {
    for (const int window : {0, 1, 5, 20}) {
      for (const int sinks : {0, 1, 4, 9, 30}) {
        const RatPlusShape s{1, 2, dilation, window, sinks};
        int pages = 0;
        for (int t = 0; t < 100; ++t) {
          int kept = 0;
          for (int p = 0; p < t - window; ++p) kept += static_cast<int>(Sees(s, t, p));
          EXPECT_EQ(s.Far(t), kept);
          if (s.PageOf(t) < 0) continue;
          EXPECT_EQ(s.PageOf(t), pages++);
          EXPECT_EQ(t + window + 1, pages * dilation + s.delay());
        }
      }
    }
  }
}

}  // namespace
}  // namespace packrat
