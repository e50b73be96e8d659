// Opens the store that a flag names.
#ifndef PACKRAT_SERVER_STORE_OPEN_STORE_H_
#define PACKRAT_SERVER_STORE_OPEN_STORE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/session_store.h"

namespace packrat {

// Whether two flags can name a store, without a look at files. `where`: the absolute path of a
// folder, or an address as ParseRedisAddress() takes it; empty: no store. `password_file`: of
// Redis, without the line break at its end; empty: none. INVALID_ARGUMENT names the flag.
absl::Status CheckStoreFlags(const std::string& where, const std::string& password_file);

// Opens the store that such flags name; `where` is not empty. A folder is made if it is not there;
// Redis need not be up. INVALID_ARGUMENT names the flag.
absl::StatusOr<std::unique_ptr<SessionStore>> OpenSessionStore(const std::string& where,
                                                               const std::string& password_file);

// Whether it is a folder that others than the server's user may read or write.
bool OthersMayUseStore(const std::string& where);

}  // namespace packrat

#endif  // PACKRAT_SERVER_STORE_OPEN_STORE_H_
