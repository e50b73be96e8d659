#include "kernels/packed_sampling.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/check.h"
#include "kernels/sampling.h"

namespace packrat::gpu {

static_assert(sizeof(PackedBias) == sizeof(std::pair<int32_t, float>));  // SamplingListBytes()

size_t PackedSamplingBytes(absl::Span<const SamplingRow> rows, int places) {
  size_t bytes = places * sizeof(PackedRow);
  for (const SamplingRow& row : rows) bytes += SamplingListBytes(row);
  return bytes;
}

void PackSampling(absl::Span<const SamplingRow> rows, int places, std::byte* packed) {
  PACKRAT_CHECK(rows.size() <= static_cast<size_t>(places)) << rows.size() << " rows";
  PACKRAT_CHECK(PackedSamplingBytes(rows, places) <= kMostPackedBytes);
  std::byte* next = packed + places * sizeof(PackedRow);
  const auto append = [&next](const auto& list) {
    const size_t bytes = list.size() * sizeof(list[0]);
    if (bytes > 0) std::memcpy(next, list.data(), bytes);
    next += bytes;
    return static_cast<int32_t>(list.size());
  };
  const auto offset = [&] { return static_cast<uint32_t>(next - packed); };
  for (int place = 0; place < places; ++place) {
    PackedRow to = {};
    if (place < static_cast<int>(rows.size())) {
      const SamplingRow& row = rows[place];
      PACKRAT_CHECK(row.num_ids >= 1 && row.num_logprobs <= kMaxLogprobs);
      PACKRAT_CHECK(row.given < row.num_ids && !(row.given >= 0 && row.allow_list)) << row.given;
      PACKRAT_CHECK(row.mask.empty() ||
                    (row.given < 0 && row.mask.size() * 32 >= size_t(row.num_ids)));
      to.num_ids = row.num_ids;
      if (row.temperature > 0) {
        to.uniform = CounterUniform(row.seed, row.position);
        to.scale = TemperatureScale(row.temperature);
      }
      to.top_k = row.top_k;
      to.top_p = row.top_p;
      to.min_p = row.min_p;
      to.repetition_penalty = row.repetition_penalty;
      to.presence_penalty = row.presence_penalty;
      to.frequency_penalty = row.frequency_penalty;
      to.num_logprobs = row.num_logprobs;
      to.given = row.given;
      to.biases = offset();
      for (const auto& [id, bias] : row.logit_bias) {
        const PackedBias entry = {id, bias};
        to.num_biases += append(absl::Span<const PackedBias>(&entry, 1));
      }
      to.excluded = offset();
      to.num_excluded = append(row.banned);
      to.num_excluded += append(row.masked);
      to.counts = offset();
      to.num_counts = append(row.counts);
      to.allowed = offset();
      to.num_allowed = row.allow_list ? append(row.allowed) : -1;
      to.mask = offset();
      to.num_mask_words = append(row.mask);
    }
    std::memcpy(packed + place * sizeof(PackedRow), &to, sizeof to);
  }
}

}  // namespace packrat::gpu
