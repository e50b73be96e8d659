#include "models/tools/gguf_layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/quantized.h"

namespace packrat {
namespace {

// Of `tensor`, cut into `count` pieces of as many bytes: piece i becomes what piece `from(i)` was.
void Reorder(int64_t count, const std::function<int64_t(int64_t)>& from, ConvertedTensor* tensor) {
  const size_t bytes = tensor->bytes.size() / static_cast<size_t>(count);
  std::vector<uint8_t> ordered(tensor->bytes.size());
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(&tensor->bytes[static_cast<size_t>(from(i)) * bytes], bytes,
                &ordered[static_cast<size_t>(i) * bytes]);
  }
  tensor->bytes = std::move(ordered);
}

// Row i of a head is their row 2 i, and from half a head on their row 2 i + 1.
void SplitPairs(int64_t rows, int64_t head_dim, ConvertedTensor* tensor) {
  Reorder(
      rows,
      [=](int64_t row) {
        const int64_t i = row % head_dim, half = head_dim / 2;
        return row - i + i % half * 2 + i / half;
      },
      tensor);
}

// Value heads come with those of one key head beside each other in ours, and one of each key head
// after the other there. `skipped` pieces come before, and each head has `each`.
void GroupValueHeads(const GgufShape& model, int64_t skipped, int64_t each, int64_t pieces,
                     ConvertedTensor* tensor) {
  const int64_t of_one = model.value_heads / model.key_heads;
  Reorder(
      pieces,
      [=, &model](int64_t i) {
        if (i < skipped) return i;
        const int64_t head = (i - skipped) / each % model.value_heads;
        const int64_t round = (i - skipped) / each - head;
        const int64_t theirs = head % of_one * model.key_heads + head / of_one;
        return skipped + (round + theirs) * each + (i - skipped) % each;
      },
      tensor);
}

// The two gates of each key head's value heads become those of all, one after the other.
void PartGates(const GgufShape& model, ConvertedTensor* tensor) {
  const int64_t of_one = model.value_heads / model.key_heads;
  Reorder(
      2 * model.value_heads,
      [=, &model](int64_t i) {
        const int64_t gate = i / model.value_heads, head = i % model.value_heads;
        return head / of_one * 2 * of_one + gate * of_one + head % of_one;
      },
      tensor);
}

absl::Status GatedDelta(const GgufShape& model, const std::string& name,
                        const std::vector<int64_t>& shape, ConvertedTensor* tensor) {
  if (name == "ssm_ba.weight" && shape[0] == 2 * model.value_heads) PartGates(model, tensor);
  if (!model.tiled_values || model.key_heads == model.value_heads) return absl::OkStatus();
  const int64_t values = model.value_heads * model.value_dim;
  const int64_t rows = shape[0];
  if (name == "attn_qkv.weight" || name == "ssm_conv1d.weight") {
    if (rows > values) GroupValueHeads(model, rows - values, model.value_dim, rows, tensor);
  } else if (name == "attn_gate.weight") {
    if (rows == values) GroupValueHeads(model, 0, model.value_dim, rows, tensor);
  } else if (name == "ssm_alpha.weight" || name == "ssm_beta.weight" || name == "ssm_a" ||
             name == "ssm_dt.bias") {
    if (rows == model.value_heads) GroupValueHeads(model, 0, 1, rows, tensor);
  } else if (name == "ssm_out.weight" && shape.size() == 2 && shape[1] == values) {
    const bool groups = tensor->type == TensorType::kInt8 || tensor->type == TensorType::kInt4;
    if (groups && model.value_dim % kQuantGroup != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("value heads of ", model.value_dim,
                       " channels are no multiple of a group of weights, ", kQuantGroup));
    }
    // A piece is what a row has of a head.
    GroupValueHeads(model, 0, 1, rows * model.value_heads, tensor);
  }
  return absl::OkStatus();
}

absl::Status ChangeFloats(const std::function<float(float)>& change, ConvertedTensor* tensor) {
  if (tensor->type != TensorType::kF32) return absl::InvalidArgumentError("must be F32");
  for (size_t at = 0; at + sizeof(float) <= tensor->bytes.size(); at += sizeof(float)) {
    float value;
    std::memcpy(&value, &tensor->bytes[at], sizeof(value));
    value = change(value);
    if (!std::isfinite(value)) return absl::InvalidArgumentError("holds what no model can hold");
    std::memcpy(&tensor->bytes[at], &value, sizeof(value));
  }
  return absl::OkStatus();
}

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t dim : shape) elements *= dim;
  return elements;
}

}  // namespace

absl::Status ChangeGgufLayout(const GgufFamily& family, const GgufShape& model,
                              const std::string& name, std::vector<int64_t>* shape,
                              ConvertedTensor* tensor) {
  if (shape->empty() || tensor->bytes.empty()) return absl::OkStatus();
  absl::Status status;
  if (family.rotary_pairs) {
    const int64_t heads = absl::StartsWith(name, "attn_q.")   ? model.heads
                          : absl::StartsWith(name, "attn_k.") ? model.kv_heads
                                                              : 0;
    if (heads > 0 && (*shape)[0] == heads * model.head_dim) {
      SplitPairs((*shape)[0], model.head_dim, tensor);
    }
  }
  if (family.norms_plus_one && absl::EndsWith(name, "norm.weight") && name != "ssm_norm.weight") {
    status = ChangeFloats([](float value) { return value - 1; }, tensor);
  }
  if (status.ok() && model.key_heads > 0) status = GatedDelta(model, name, *shape, tensor);
  if (status.ok() && name == "ssm_a") {
    status = ChangeFloats([](float value) { return std::log(-value); }, tensor);
  }
  // (heads, 1), and norms by groups.
  if (name == "ssm_a" || name == "ssm_d" || name == "ssm_norm.weight") *shape = {Elements(*shape)};
  if (name == "ffn_gate_inp_shexp.weight" && shape->size() == 1) shape->insert(shape->begin(), 1);
  // (channels, 1, taps) in ours.
  if ((name == "ssm_conv1d.weight" || name == "shortconv.conv.weight") && shape->size() == 2) {
    shape->insert(shape->begin() + 1, 1);
  }
  return status;
}

}  // namespace packrat
