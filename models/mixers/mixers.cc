#include "models/mixers/mixers.h"

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace packrat {
namespace {

// Calls visit(Spec()) for every kind.
template <size_t i = 0, class Visit>
void ForEachKind(const Visit& visit) {
  if constexpr (i < std::variant_size_v<MixerSpec>) {
    visit(std::variant_alternative_t<i, MixerSpec>());
    ForEachKind<i + 1>(visit);
  }
}

}  // namespace

std::vector<std::string> MixerNames() {
  std::vector<std::string> names;
  ForEachKind(
      [&](const auto& kind) { names.insert(names.end(), kind.kNames.begin(), kind.kNames.end()); });
  return names;
}

std::optional<MixerSpec> ReadMixer(const std::string& type, JsonFields* fields,
                                   const SharedFields& shared) {
  std::optional<MixerSpec> mixer;
  ForEachKind([&](const auto& kind) {
    using Spec = std::decay_t<decltype(kind)>;
    if (std::find(Spec::kNames.begin(), Spec::kNames.end(), type) == Spec::kNames.end()) return;
    mixer = Spec::Read(type, fields, shared);
  });
  return mixer;
}

}  // namespace packrat
