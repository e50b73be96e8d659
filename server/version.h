#ifndef PACKRAT_SERVER_VERSION_H_
#define PACKRAT_SERVER_VERSION_H_

namespace packrat {

// In the form of semantic versioning. In packages and images the day and the commit follow:
// 0.1.0+20261126.1a2b3c4. It is stated only here; packages ask the programs.
extern const char* const kVersion;

}  // namespace packrat

#endif  // PACKRAT_SERVER_VERSION_H_
