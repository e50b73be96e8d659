#include "models/mixers/spec.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/batch.h"

namespace packrat {

int EvenHeadDim(JsonFields* fields, const std::string& heads_name, int num_heads, int hidden_size) {
  const int head_dim = hidden_size / num_heads;
  if (hidden_size % num_heads != 0) {
    fields->Fail(heads_name,
                 absl::StrCat("is ", num_heads, "; must divide the hidden size ", hidden_size));
  } else if (head_dim % 2 != 0 || head_dim > kMaxHeadDim) {
    fields->Fail(heads_name, absl::StrCat("is ", num_heads, ", which makes heads of ", head_dim,
                                          " channels; must be even and at most ", kMaxHeadDim));
  }
  return head_dim;
}

int DivisorOfHeads(JsonFields* fields, const std::string& name, int num_heads,
                   std::optional<int> fallback) {
  const int count = fields->Int(name, 1, num_heads, fallback);
  if (num_heads % count != 0) {
    fields->Fail(name, absl::StrCat("is ", count, "; must divide the ", num_heads, " heads"));
  }
  return count;
}

double ReadRopeTheta(JsonFields* fields, double fallback, double* part) {
  double theta = fields->Number("rope_theta", 1.0, kMaxRopeBase, fallback);
  if (part != nullptr) *part = fields->Number("partial_rotary_factor", 0.0, 1.0, *part);
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    const Json* object = fields->Get(name);
    if (object == nullptr) continue;
    JsonFields rope(*object, fields->Name(name));
    // A field that may be outside too, where it must say the same.
    const auto read = [&](const char* field, double min, double max, double outer) {
      const bool twice = fields->Get(field) != nullptr && rope.Get(field) != nullptr;
      const double inner = rope.Number(field, min, max, outer);
      if (twice && inner != outer) {
        rope.Fail(field, absl::StrCat("is ", inner, ", and ", fields->Name(field), " is ", outer,
                                      "; must be the same"));
      }
      return inner;
    };
    rope.Only("rope_type", "default");
    rope.Only("type", "default");  // As older files call it.
    if (part != nullptr) {
      *part = read("partial_rotary_factor", 0.0, 1.0, *part);
      rope.Ignore({"mrope_section", "mrope_interleaved"});
    } else {
      rope.Only("partial_rotary_factor", 1.0);
    }
    theta = read("rope_theta", 1.0, kMaxRopeBase, theta);
    rope.RefuseOthers();
    fields->Check(rope.status());
  }
  return theta;
}

std::string Exact(double number) { return absl::StrFormat("%.17g", number); }

}  // namespace packrat
