// Attention over texts that are fed in every cut, in each form that a device has.
#ifndef PACKRAT_TESTS_KERNELS_ATTENTION_FEED_H_
#define PACKRAT_TESTS_KERNELS_ATTENTION_FEED_H_

#include <algorithm>
#include <deque>
#include <vector>

#include "kernels/attention.h"
#include "tests/kernels/attention_reference.h"
#include "tests/kernels/tail_feed.h"

namespace packrat {

// A way of computing attention: in activations and pages of type T.
template <class T>
struct AttentionForm {
  using Activation = T;
  using Page = T;
  static bool Runs() { return true; }
  static AttentionRounding Rounding(const AttentionShape&) {
    return {Storage{sizeof(T) == 2}, kDotRoundings};
  }
  // Of an entry's channel d among the keys of a head.
  static size_t KeyAt(int entry, int d, int padded) { return size_t{1} * entry * padded + d; }
  static size_t CpuScratchFloats(int head_dim) { return AttentionScratchFloats(head_dim); }
  template <class... Arguments>
  static absl::Status Run(const Arguments&... arguments) {
    return ops::Attention(arguments...);
  }
};

#ifdef PACKRAT_GPU
using AttentionForms = ActivationTypes;
#else

// AttentionInBFloat16().
struct InBFloat16 {};
template <>
struct AttentionForm<InBFloat16> {
  using Activation = float;
  using Page = uint16_t;
  static bool Runs() { return CpuHasBFloat16(); }
  // What can be held is rounded only once it is rotated. The roundings of a dot product are those
  // of one chain.
  static AttentionRounding Rounding(const AttentionShape& s) {
    const double rounding = Storage{true}.rounding(), rotated = s.rotary_dim > 0 ? rounding : 0;
    return {Storage{true}, 1.0 * PadTo16(s.head_dim), rotated, rotated, 1.001 * rounding, 0};
  }
  static size_t KeyAt(int entry, int d, int) {
    return size_t{2} * (d / 2 * kBlockTokens + entry) + d % 2;
  }
  static size_t CpuScratchFloats(int) { return AttentionInBFloat16ScratchFloats(); }
  template <class... Arguments>
  static absl::Status Run(const Arguments&... arguments) {
    return AttentionInBFloat16(arguments...);
  }
};
using AttentionForms = testing::Types<float, InBFloat16>;
#endif

template <class T>
class AttentionTest : public TextsTest {
 protected:
  using Activation = typename AttentionForm<T>::Activation;
  using Page = typename AttentionForm<T>::Page;
  using Texts = std::deque<AttentionText>;

  template <class Body>
  void ForEachDevice(const Body& body) {
    TextsTest::ForEachDevice([&] {
      if (AttentionForm<T>::Runs()) body();
    });
  }

  static Texts MakeTexts(Random* random, const AttentionShape& s, const std::vector<int>& lengths,
                         float scale = 1.0f) {
    Texts texts;
    for (const int n : lengths) {
      texts.emplace_back(random, s, n, scale, AttentionForm<T>::Rounding(s));
    }
    return texts;
  }

  Outputs Feed(const AttentionShape& s, const Texts& texts, Cut cut, uint64_t seed = 7) {
    std::vector<int> lengths;
    for (const AttentionText& text : texts) lengths.push_back(text.length);
    Feeder feeder(lengths, cut);
    return Feed(
        s, texts, [&](std::vector<Rows>* rows) { return feeder.Next(rows); }, seed);
  }

  // next(&rows): as Feeder::Next().
  template <class Next>
  Outputs Feed(const AttentionShape& s, const Texts& texts, const Next& next, uint64_t seed) {
    const int q_width = s.num_heads * s.head_dim, kv_width = s.num_kv_heads * s.head_dim;
    Random random(seed);
    std::vector<int> lengths, rings, used;
    std::vector<const std::vector<float>*> q, k, v;
    int tokens = 1;
    for (const AttentionText& text : texts) {
      lengths.push_back(text.length);
      q.push_back(&text.q), k.push_back(&text.k), v.push_back(&text.v);
      rings.push_back(RingPages(s, text.length));
      used.push_back(std::min((text.length + kBlockTokens - 1) / kBlockTokens, rings.back()));
      tokens += text.length + 3;
    }
    DevicePages<Page> pages(&random, AttentionPageFloats(s.num_kv_heads, s.head_dim), rings);
    const std::vector<int> no_tails(lengths.size());
    Scratch scratch(
        PACKRAT_SCRATCH(gpu::AttentionScratchBytes(s, Stored<Activation>::kType,
                                                   static_cast<int>(2 * lengths.size()), tokens),
                        AttentionForm<T>::CpuScratchFloats(s.head_dim)));
    scratch.Zero();
    Outputs outputs(lengths.size());
    std::vector<Rows> rows;
    while (next(&rows)) {
      const DeviceStep step(&random, rows, no_tails);
      // Rows of k, q, v and something else.
      const int beside = random.Int(0, 3), stride = q_width + 2 * kv_width + beside;
      const std::vector<float> all_q = step.Gather(q, q_width), all_k = step.Gather(k, kv_width),
                               all_v = step.Gather(v, kv_width);
      std::vector<float> qkv;
      for (int t = 0; t < step.num_tokens(); ++t) {
        qkv.insert(qkv.end(), &all_k[t * kv_width], &all_k[t * kv_width] + kv_width);
        qkv.insert(qkv.end(), &all_q[t * q_width], &all_q[t * q_width] + q_width);
        qkv.insert(qkv.end(), &all_v[t * kv_width], &all_v[t * kv_width] + kv_width);
        qkv.insert(qkv.end(), beside, kNaN);
      }
      DeviceArray<Activation> device_qkv(Stored<Activation>::From(qkv));
      DeviceArray<float> rope(step.Rope(kRopeBase, s.rotary_dim, 1));
      DeviceArray<Activation> out(static_cast<size_t>(step.num_tokens()) * q_width);
      const StatePages tables = pages.For(step);
      const Activation* rows_at = device_qkv.data();
      const AttentionOperands operands{
          rows_at + kv_width, rows_at,    rows_at + kv_width + q_width, stride,
          rope.data(),        out.data(), Stored<Activation>::kType};
      EXPECT_TRUE(Run(scratch, PACKRAT_WORK(step, gpu::AttentionKind(s, Stored<Activation>::kType)),
                      [&](auto... device) {
                        return AttentionForm<T>::Run(s, step.batch(), tables, operands, device...);
                      })
                      .ok());
      step.Scatter(out.Get(), q_width, &outputs);
    }
    // Where pages are not rows, padding shows in the results alone: what is not zero is a NaN.
    const int padded = PadTo16(s.head_dim);
    pages.ExpectOthersIntact(used, sizeof(Page) == sizeof(Activation) ? s.head_dim : padded,
                             padded);
    scratch.ExpectGuardsIntact();
    return outputs;
  }

  void ExpectRightInEveryCut(const AttentionShape& s, const Texts& texts) {
    SCOPED_TRACE(testing::Message() << "heads " << s.num_heads << "/" << s.num_kv_heads << " dim "
                                    << s.head_dim << " rotary " << s.rotary_dim << " window "
                                    << s.window << " text " << texts[0].length);
    ForEachDevice([&] {
      TextsTest::ExpectRightInEveryCut(
          texts, [&](Cut cut, uint64_t seed) { return Feed(s, texts, cut, seed); });
    });
  }
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_ATTENTION_FEED_H_
