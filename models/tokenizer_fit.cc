#include "models/tokenizer_fit.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/files/json.h"

namespace packrat {

absl::StatusOr<std::vector<std::string>> CompareTokenizer(const Tokenizer& tokenizer,
                                                          const ModelConfig& config) {
  for (int id : config.eos_ids) {
    if (id < tokenizer.num_pieces() && !tokenizer.PieceText(id).empty()) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "eos_token_id of config.json or generation_config.json: ", id,
        " has no token, so that it would end no text: the tokenizer has ", tokenizer.num_pieces(),
        ", those of added_tokens.json and tokenizer_config.json included"));
  }
  std::vector<std::string> warnings;
  const int bos = tokenizer.bos_id(), eos = tokenizer.eos_id();
  if (bos >= 0 && config.bos_id >= 0 && bos != config.bos_id) {
    warnings.push_back(absl::StrCat("bos_token_id is ", config.bos_id,
                                    ", but the tokenizer's BOS is ",
                                    Quoted(tokenizer.PieceText(bos)), " with the id ", bos,
                                    ", which add_bos puts before a text"));
  }
  const auto& ends = config.eos_ids;
  if (eos >= 0 && !ends.empty() && std::find(ends.begin(), ends.end(), eos) == ends.end()) {
    warnings.push_back(absl::StrCat("the tokenizer's EOS, ", Quoted(tokenizer.PieceText(eos)),
                                    " with the id ", eos, ", ends no text: eos_token_id is ",
                                    absl::StrJoin(ends, ", ")));
  }
  const absl::Status& chat = tokenizer.chat_template().status();
  if (!chat.ok() && !absl::IsNotFound(chat)) {
    warnings.push_back(absl::StrCat("chat is refused: ", chat.message()));
  }
  return warnings;
}

}  // namespace packrat
