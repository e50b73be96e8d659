// Opens the store that a flag names.
#ifndef PACKRAT_SERVER_STORE_OPEN_STORE_H_
#define PACKRAT_SERVER_STORE_OPEN_STORE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/session_store.h"

namespace packrat {

// `where`: the absolute path of a folder, which is made if it is not there, or an address as
// ParseRedisAddress() takes it. `password_file`: of Redis, without the line break at its end;
// empty: none. Redis need not be up. INVALID_ARGUMENT names the flag.
absl::StatusOr<std::unique_ptr<SessionStore>> OpenSessionStore(const std::string& where,
                                                               const std::string& password_file);

}  // namespace packrat

#endif  // PACKRAT_SERVER_STORE_OPEN_STORE_H_
