#ifndef PACKRAT_SERVER_VERSION_H_
#define PACKRAT_SERVER_VERSION_H_

namespace packrat {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace packrat

#endif  // PACKRAT_SERVER_VERSION_H_
