// RAT token by token in double precision.
#ifndef PACKRAT_TESTS_KERNELS_RAT_REFERENCE_H_
#define PACKRAT_TESTS_KERNELS_RAT_REFERENCE_H_

#include <deque>
#include <vector>

#include "kernels/rat.h"
#include "tests/kernels/random.h"
#include "tests/kernels/reference.h"

namespace packrat {

inline constexpr double kRopeBase = 10000.0;

// A layer and texts to run through it.
struct RatText {
  int length;
  std::vector<float> projection;  // (length, shape.projection())
  Vector expected, tolerance;     // (length, heads * dim)
};

// The running state of one head in double precision, and how far float32 may be from it.
struct Running {
  Vector value, error;
  explicit Running(int dim) : value(dim), error(dim) {}

  // state = gate * state + (1 - gate) * x. The gate carries exp's error of two units, those of a
  // sum and a division, and that of its argument's rounding; then three for each product with its
  // sum.
  void Step(int d, double argument, double x) {
    const double gate = Sigmoid(argument);
    const double gate_error = kUnit * (4 * gate + gate * (1 - gate) * std::fabs(argument));
    const double kept = gate * value[d], added = (1 - gate) * x;
    error[d] = gate * error[d] + gate_error * std::fabs(value[d]) +
               (gate_error + kUnit) * std::fabs(x) +
               3 * kUnit * (std::fabs(kept) + std::fabs(added));
    value[d] = kept + added;
  }
};

// One head of one text, token by token. dot_roundings: see SoftmaxList.
inline void RunHead(const RatShape& s, const std::vector<float>& gate_bias, int head, RatText* text,
                    Storage storage = {}, double dot_roundings = 0) {
  const int dim = s.head_dim, width = s.num_heads * dim, group = head % s.num_groups;
  struct Finished {
    Vector key, value, value_error;
    double key_error;
  };
  std::vector<Finished> finished;
  Running key(dim), value(dim);
  for (int t = 0; t < text->length; ++t) {
    const float* row = text->projection.data() + static_cast<size_t>(t) * s.projection();
    const float *z = row + head * dim, *v = row + width + head * dim,
                *g = row + 2 * width + head * dim, *q = row + 3 * width + group * dim,
                *k = row + 3 * width + (s.num_groups + group) * dim;
    const int chunk = t / s.chunk_size;
    if (t % s.chunk_size == 0) key = value = Running(dim);
    for (int d = 0; d < dim; ++d) {
      const double argument = double{g[d]} + gate_bias[head * dim + d];
      key.Step(d, argument, k[d]);
      value.Step(d, argument, v[d]);
    }
    SoftmaxList list(Rotated(q, dim, chunk, kRopeBase), dot_roundings);
    for (const Finished& f : finished) list.Add(f.key, f.value, f.key_error, f.value_error);
    const Vector rotated = Rotated(key.value.data(), dim, chunk, kRopeBase);
    list.Add(rotated, value.value, Norm(key.error), value.error);
    if ((t + 1) % s.chunk_size == 0) {
      // The page's rounding is of what was computed.
      Finished f = {rotated, value.value, value.error, Norm(key.error)};
      f.key_error += storage.rounding() * (Norm(rotated) + f.key_error);
      for (int d = 0; d < dim; ++d) {
        f.value_error[d] += storage.rounding() * (std::fabs(f.value[d]) + f.value_error[d]);
      }
      finished.push_back(f);
    }
    Vector out, error;
    list.Finish(&out, &error);
    for (int d = 0; d < dim; ++d) {
      const size_t at = static_cast<size_t>(t) * width + head * dim + d;
      const double gate = Sigmoid(z[d]);
      text->expected[at] = gate * out[d];
      const double tolerance = gate * error[d] + 6 * kUnit * std::fabs(gate * out[d]);
      text->tolerance[at] = tolerance + storage.rounding() * (std::fabs(gate * out[d]) + tolerance);
    }
  }
}

struct RatLayer {
  RatShape shape;
  std::vector<float> gate_bias;
  std::deque<RatText> texts;

  RatLayer(Random* random, const RatShape& s, const std::vector<int>& lengths, float scale = 1.0f,
           Storage storage = {}, double dot_roundings = 0)
      : shape(s),
        gate_bias(random->Normals(s.num_heads * s.head_dim, 2.0f, random->OneOf<float>({0, 3}))) {
    for (const int length : lengths) {
      const auto size = static_cast<size_t>(length) * s.num_heads * s.head_dim;
      texts.push_back(
          {length, storage(random->Normals(static_cast<size_t>(length) * s.projection(), scale)),
           Vector(size), Vector(size)});
      for (int head = 0; head < s.num_heads; ++head) {
        RunHead(s, gate_bias, head, &texts.back(), storage, dot_roundings);
      }
    }
  }
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_RAT_REFERENCE_H_
