// encode DIR [special]: for every line of standard input, a JSON string, the ids of its text by the
// tokenizer in DIR (`special`: control tokens in it are read as such) and what they decode to.
#include <iostream>
#include <limits>
#include <string>

#include "models/files/json.h"
#include "models/text/tokenizer.h"

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const auto tokenizer = packrat::Tokenizer::Load(argv[1], 1 << 22);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  packrat::Tokenizer::EncodeOptions options;
  options.parse_special = argc > 2 && std::string(argv[2]) == "special";
  for (std::string line; std::getline(std::cin, line);) {
    const auto text = packrat::ParseJson(line.data(), line.size(), "input");
    if (!text.ok() || !text->is_string()) return 2;
    const auto ids = (*tokenizer)->Encode(text->get<std::string>(), options);
    if (!ids.ok()) {
      std::cerr << ids.status() << "\n";
      return 1;
    }
    const packrat::Json answer = {*ids, (*tokenizer)->Decode(*ids, /*skip_special=*/false)};
    std::cout << answer.dump() << "\n";
  }
  return 0;
}
