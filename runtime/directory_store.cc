#include "runtime/directory_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kernels/check.h"
#include "models/bytes_hash.h"
#include "models/weights.h"
#include "runtime/pending_file.h"

namespace packrat {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr absl::string_view kTenantPrefix = "tenant-";  // Of folders.
constexpr absl::Duration kDamagedAge = absl::Hours(24);

// Before the bytes of a session in its file.
struct Header {
  char magic[8] = {'P', 'R', 'S', 'T', 'O', 'R', 'E', '2'};
  SessionVersion version;
  int64_t expires_us = 0;  // Since 1970.
  uint64_t bytes_hash = 0;
  uint64_t hash = 0;  // Of the numbers before.
};
static_assert(sizeof(Header) == 48);
constexpr absl::string_view kEarlierMagic = "PRSTORE1";

uint64_t HashOf(const Header& header) {
  return HashBytes(0, &header.version, offsetof(Header, hash) - offsetof(Header, version));
}

absl::Status NoSuchSession() { return absl::NotFoundError("there is no such session"); }
absl::Status Damaged() { return absl::DataLossError("the stored session is damaged"); }

// The header at the beginning of the file's bytes, if its session is alive.
absl::StatusOr<Header> HeaderIn(absl::string_view bytes, absl::Time now) {
  Header header;
  if (absl::StartsWith(bytes, kEarlierMagic)) {
    return absl::FailedPreconditionError(
        "an earlier version of the server stored the session, in a form that is not read any more");
  }
  if (bytes.size() < sizeof header) return Damaged();
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, Header().magic, sizeof header.magic) != 0 ||
      HashOf(header) != header.hash) {
    return Damaged();
  }
  if (absl::FromUnixMicros(header.expires_us) <= now) return NoSuchSession();
  return header;
}

absl::string_view AsBytes(const Header& header) {
  return {reinterpret_cast<const char*>(&header), sizeof header};
}

// A tenant may have any name; as a name in a folder it has letters and digits.
std::string Escaped(absl::string_view name) {
  std::string out;
  for (const char c : name) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_') {
      out += c;
    } else {
      absl::StrAppendFormat(&out, "%%%02x", static_cast<unsigned char>(c));
    }
  }
  return out;
}

// What a disk says is no fault of the caller's.
absl::Status AsStoreStatus(const absl::Status& status) {
  if (status.ok() || absl::IsResourceExhausted(status)) return status;
  return absl::UnavailableError(absl::StrCat("the session store fails: ", status.message()));
}

// Held while versions are compared and files take their names.
class FolderLock {
 public:
  FolderLock(const std::string& folder, absl::Duration timeout)
      : fd_(open((folder + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    constexpr absl::Duration kNap = absl::Milliseconds(2);
    for (int64_t naps = timeout / kNap; fd_ >= 0 && flock(fd_, LOCK_EX | LOCK_NB) != 0; --naps) {
      if ((errno != EWOULDBLOCK && errno != EINTR) || naps <= 0) {
        close(fd_);
        fd_ = -1;
        break;
      }
      absl::SleepFor(kNap);
    }
  }
  ~FolderLock() {
    if (fd_ >= 0) close(fd_);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  absl::Status status() const {
    return fd_ >= 0 ? absl::OkStatus()
                    : absl::UnavailableError("the session store is locked by another process");
  }

 private:
  int fd_;
};

absl::StatusOr<Header> HeaderOf(int fd, const std::string& path, absl::Time now) {
  const absl::StatusOr<std::string> bytes = ReadSome(fd, sizeof(Header), path);
  if (!bytes.ok()) return AsStoreStatus(bytes.status());
  return HeaderIn(*bytes, now);
}

absl::StatusOr<Header> ReadHeader(const std::string& path, absl::Time now) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return NoSuchSession();
  if (fd < 0) return AsStoreStatus(absl::ErrnoToStatus(errno, path));
  const absl::Cleanup close_it = [fd] { close(fd); };
  return HeaderOf(fd, path, now);
}

bool IsTenant(const fs::directory_entry& entry) {
  std::error_code error;
  return absl::StartsWith(entry.path().filename().string(), kTenantPrefix) &&
         entry.symlink_status(error).type() == fs::file_type::directory;
}

bool IsOlder(const std::string& path, absl::Duration age, absl::Time now) {
  struct stat file = {};
  return stat(path.c_str(), &file) == 0 && now - absl::TimeFromTimespec(file.st_mtim) > age;
}

// What is damaged, or of an earlier version, does not say when its time is over. Somebody may want
// to look at it.
bool IsOver(const std::string& path, absl::Time now) {
  const absl::Status status = ReadHeader(path, now).status();
  const bool unreadable = absl::IsDataLoss(status) || absl::IsFailedPrecondition(status);
  return absl::IsNotFound(status) || (unreadable && IsOlder(path, kDamagedAge, now));
}

absl::Status Remove(const std::string& path) {
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return AsStoreStatus(absl::ErrnoToStatus(errno, path));
}

}  // namespace

bool OthersMayReadOrWrite(const std::string& folder) {
  constexpr mode_t kReadOrWrite = S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH;
  struct stat found = {};
  return stat(folder.c_str(), &found) == 0 && (found.st_mode & kReadOrWrite) != 0;
}

// Goes through the folders of all tenants, a little at a time, whatever comes and goes meanwhile.
// What cannot be read is passed over.
class DirectoryStore::Walk {
 public:
  explicit Walk(const std::string& folder) { tenants_ = Entries(folder, error_); }

  bool over() const { return tenants_ == Entries(); }
  // Of a session's file; empty where a folder begins or ends.
  std::string path() const { return files_ == Entries() ? "" : files_->path().string(); }
  // Reads one entry of one folder.
  void Next() {
    if (std::exchange(opened_, true)) {
      if (files_ != Entries()) files_.increment(error_);
    } else if (IsTenant(*tenants_)) {
      files_ = Entries(tenants_->path(), error_);
    }
    if (files_ != Entries()) return;
    tenants_.increment(error_);
    opened_ = false;
  }

 private:
  // Not by ranges, which throw what goes wrong.
  using Entries = fs::directory_iterator;
  Entries tenants_, files_;
  bool opened_ = false;  // The folder of this tenant.
  std::error_code error_;
};

absl::StatusOr<std::unique_ptr<DirectoryStore>> DirectoryStore::Open(
    DirectoryStoreOptions options) {
  std::error_code error;
  if (fs::create_directories(options.folder, error)) {
    fs::permissions(options.folder, fs::perms::owner_all, error);
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat(options.folder, ": cannot be made"));
  }
  if (access(options.folder.c_str(), R_OK | W_OK | X_OK) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(options.folder, ": cannot be written"));
  }
  // Earlier versions let others list these.
  for (fs::directory_iterator it(options.folder, error); it != fs::directory_iterator();
       it.increment(error)) {
    if (!IsTenant(*it)) continue;
    std::error_code others;  // Belong to another user.
    fs::permissions(it->path(), fs::perms::owner_all, others);
  }
  return std::unique_ptr<DirectoryStore>(new DirectoryStore(std::move(options)));
}

DirectoryStore::DirectoryStore(DirectoryStoreOptions options) : options_(std::move(options)) {}

DirectoryStore::~DirectoryStore() = default;

std::string DirectoryStore::FolderOf(const StoreKey& key) const {
  return absl::StrCat(options_.folder, "/", kTenantPrefix, Escaped(key.tenant));
}

std::string DirectoryStore::PathOf(const StoreKey& key) const {
  // A handle is checked where it comes in; here it becomes a path.
  PACKRAT_CHECK(!key.handle.empty() && Escaped(key.handle) == key.handle) << key.handle;
  return absl::StrCat(FolderOf(key), "/", key.handle);
}

absl::Status DirectoryStore::Put(const StoreKey& key, const SessionPast& past, const Source& next,
                                 absl::Duration ttl) {
  Sweep(kEntriesAPut);
  const std::string path = PathOf(key);
  mkdir(FolderOf(key).c_str(), 0700);  // Where it cannot be made, nor can the file.
  auto file = PendingFile::Create(path);
  if (!file.ok()) return AsStoreStatus(file.status());
  Header header;
  BytesHash hash;
  // Its place is filled once all is known.
  absl::Status written = file->Append(AsBytes(header));
  for (;;) {
    if (!written.ok()) return AsStoreStatus(written);
    const absl::StatusOr<std::string> piece = next();
    if (!piece.ok()) return piece.status();
    if (piece->empty()) break;
    hash.Add(piece->data(), piece->size());
    written = file->Append(*piece);
  }
  header.version = past.now();
  header.expires_us = absl::ToUnixMicros(options_.now() + ttl);
  header.bytes_hash = hash.Value();
  header.hash = HashOf(header);
  written = file->Overwrite(AsBytes(header));
  if (written.ok()) written = file->Sync();
  if (!written.ok()) return AsStoreStatus(written);

  const FolderLock lock(options_.folder, options_.lock_timeout);
  if (!lock.status().ok()) return lock.status();
  const absl::StatusOr<Header> before = ReadHeader(path, options_.now());
  if (before.ok()) {
    if (before->version == past.now()) return absl::OkStatus();
    const absl::Status place = CheckComesFrom(before->version, past);
    if (!place.ok()) return place;
  }
  // What cannot be read may be a newer one.
  if (absl::IsUnavailable(before.status())) return before.status();
  return AsStoreStatus(file->Commit());
}

absl::StatusOr<SessionVersion> DirectoryStore::Get(const StoreKey& key, const Sink& take) {
  const std::string path = PathOf(key);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return NoSuchSession();
  if (fd < 0) return AsStoreStatus(absl::ErrnoToStatus(errno, path));
  const absl::Cleanup close_it = [fd] { close(fd); };
  const absl::StatusOr<Header> header = HeaderOf(fd, path, options_.now());
  if (!header.ok()) return header.status();
  if (header->version == kDeletedSession) return NoSuchSession();
  BytesHash hash;
  for (;;) {
    const absl::StatusOr<std::string> piece = ReadSome(fd, kPieceBytes, path);
    if (!piece.ok()) return AsStoreStatus(piece.status());
    if (piece->empty()) break;
    hash.Add(piece->data(), piece->size());
    const absl::StatusOr<bool> more = take(*piece);
    if (!more.ok()) return more.status();
    if (!*more) return header->version;
  }
  if (hash.Value() != header->bytes_hash) return Damaged();
  return header->version;
}

absl::StatusOr<SessionVersion> DirectoryStore::Version(const StoreKey& key) {
  const absl::StatusOr<Header> header = ReadHeader(PathOf(key), options_.now());
  if (!header.ok()) return header.status();
  return header->version;
}

absl::Status DirectoryStore::Delete(const StoreKey& key, absl::Duration ttl) {
  const std::string path = PathOf(key);
  mkdir(FolderOf(key).c_str(), 0700);
  Header header;
  header.version = kDeletedSession;
  header.expires_us = absl::ToUnixMicros(options_.now() + ttl);
  header.bytes_hash = BytesHash().Value();
  header.hash = HashOf(header);
  auto file = PendingFile::Write(path, {AsBytes(header)});
  const FolderLock lock(options_.folder, options_.lock_timeout);
  if (!lock.status().ok()) return lock.status();
  if (file.ok()) return AsStoreStatus(file->Commit());
  const absl::Status removed = Remove(path);
  // A full disk remembers nothing.
  return removed.ok() && absl::IsResourceExhausted(file.status()) ? removed
                                                                  : AsStoreStatus(file.status());
}

std::unique_ptr<DirectoryStore::Walk> DirectoryStore::TakeWalk() {
  const absl::Time now = options_.now();
  const MutexLock lock(&mutex_);
  if (sweeping_ || (walk_ == nullptr && now < last_sweep_ + options_.sweep_interval)) {
    return nullptr;
  }
  sweeping_ = true;
  if (walk_ != nullptr) return std::move(walk_);
  last_sweep_ = now;
  return std::make_unique<Walk>(options_.folder);
}

void DirectoryStore::GiveBack(std::unique_ptr<Walk> walk) {
  const MutexLock lock(&mutex_);
  sweeping_ = false;
  if (!walk->over()) walk_ = std::move(walk);
}

int DirectoryStore::Sweep(int entries) {
  std::unique_ptr<Walk> walk = TakeWalk();
  if (walk == nullptr) return 0;
  int removed = 0;
  for (; entries > 0 && !walk->over(); --entries) {
    const std::string path = walk->path();
    if (!path.empty() && !RemoveIfOver(path, &removed)) break;
    walk->Next();
  }
  GiveBack(std::move(walk));
  return removed;
}

bool DirectoryStore::RemoveIfOver(const std::string& path, int* removed) {
  const std::string name = path.substr(path.rfind('/') + 1);
  if (absl::StartsWith(name, PendingFile::kPrefix)) {
    std::error_code error;
    // Nobody writes one session for an hour.
    if (IsOlder(path, absl::Hours(1), options_.now())) fs::remove(path, error);
    return true;
  }
  // What is no session's is not ours to remove.
  if (Escaped(name) != name || !IsOver(path, options_.now())) return true;
  const FolderLock lock(options_.folder, absl::ZeroDuration());
  if (!lock.status().ok()) return false;
  // Again under the lock: it may just have been written anew.
  if (IsOver(path, options_.now()) && unlink(path.c_str()) == 0) ++*removed;
  return true;
}

}  // namespace packrat
