#include "server/version.h"

namespace packrat {
namespace {

constexpr char kText[] = "0.1.0" PACKRAT_COMMIT_SUFFIX;

}  // namespace

const char* const kVersion = kText;

}  // namespace packrat
