#include "models/weight_formats.h"

#include "absl/strings/str_cat.h"
#include "kernels/quantized.h"

namespace packrat {

WeightFormats::WeightFormats(const WeightLoader& loader, bool tied, const ModelOptions& options)
    : layers(options.weights),
      output(options.output_weights.value_or(layers != WeightFormat::kStored ||
                                                     (tied && loader.HasQuantized())
                                                 ? WeightFormat::kInt8
                                                 : WeightFormat::kStored)) {}

std::string WeightFormats::Id() const {
  std::string id;
  if (layers != WeightFormat::kStored) absl::StrAppend(&id, "-weights-", WeightFormatName(layers));
  if (output != WeightFormat::kStored) absl::StrAppend(&id, "-output-", WeightFormatName(output));
  return id;
}

DType FormatOf(DType stored, WeightFormat asked) {
  if (asked == WeightFormat::kStored || IsQuantized(stored)) return stored;
  return asked == WeightFormat::kInt8 ? DType::kInt8 : DType::kInt4;
}

DType FormatOf(const std::vector<DeviceWeights::Rows>& parts, int in, WeightFormat asked,
               DType mixed, WeightLoader* loader) {
  const DType type = FormatOf(loader->TypeOf(parts[0].name), asked);
  for (const DeviceWeights::Rows& part : parts) {
    if (FormatOf(loader->TypeOf(part.name), asked) != type) return mixed;
  }
  if (!IsQuantized(type) || in % kQuantGroup == 0) return type;
  loader->Refuse(parts[0].name, absl::StrCat("has rows of ", in, " values; ", DTypeName(type),
                                             " takes multiples of ", kQuantGroup));
  return mixed;
}

}  // namespace packrat
