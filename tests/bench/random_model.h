// Folders with models of random weights, for benchmarks of shapes that nobody has trained.
#ifndef PACKRAT_TESTS_BENCH_RANDOM_MODEL_H_
#define PACKRAT_TESTS_BENCH_RANDOM_MODEL_H_

#include <string>
#include <vector>

namespace packrat {

struct RandomModelShape {
  std::vector<std::string> layer_types;  // As in the packrat family.
  int hidden_size = 1024;
  int intermediate_size = 2816;
  int vocab_size = 32000;
  int heads = 16;    // Of hidden_size / heads channels.
  int kv_heads = 4;  // Of local and full attention.
  int window = 512;
  int max_context = 65536;
};

// Writes DIR/config.json and DIR/model.safetensors (bfloat16), unless they are there already.
void WriteRandomModel(const std::string& dir, const RandomModelShape& shape);

// A hybrid of some 350 million parameters, larger than any cache: 24 layers, a third each
// RAT (chunk 16), window attention and Mesa.
RandomModelShape Hybrid350M();

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_RANDOM_MODEL_H_
