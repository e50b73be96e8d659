// Prints the OpenAPI description: `./dev docs` writes it into docs/openapi.json.
#include <cstdio>
#include <string>

#include "server/openai/openai.h"

int main() {
  const std::string text = packrat::openai::OpenApi();
  return std::fputs(text.c_str(), stdout) < 0 ? 1 : 0;
}
