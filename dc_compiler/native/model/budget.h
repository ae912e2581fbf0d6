// budget.h: how much memory one file's packed weights and graphs may take (SECURITY.md). Needs no onnxruntime.
#ifndef DCC_BUDGET_H_
#define DCC_BUDGET_H_

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

namespace dcc {

constexpr char kMaxDecodedKey[] = "dcc.max_decoded_bytes";
// Without a limit of the host's own: what every file may expand to, and what each byte stored in it adds to that.
constexpr uint64_t kFreeBytes = uint64_t{64} << 20;
constexpr uint64_t kBytesPerStored = 1024;

// Counts what is about to be allocated; thread-safe.
class Budget {
 public:
  // `remedy` says what to do when a file that is trusted needs more.
  explicit Budget(std::optional<uint64_t> limit,
                  std::string remedy = std::string("set ") + kMaxDecodedKey + " in the session options")
      : limit_(limit), remedy_(std::move(remedy)) {}

  // Counts the bytes that `what` takes in the file, which raise the default limit.
  void add_stored(uint64_t bytes);
  // Counts bytes that `what` is about to take in memory. Throws Failure (DCC_OVER_LIMIT) when that is more than the
  // file may take.
  void spend(uint64_t bytes, const std::string& what);

 private:
  const std::optional<uint64_t> limit_;
  const std::string remedy_;
  std::mutex mutex_;
  uint64_t stored_ = 0;
  uint64_t spent_ = 0;
};

}  // namespace dcc
#endif  // DCC_BUDGET_H_
