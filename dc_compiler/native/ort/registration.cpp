// registration.cpp: RegisterCustomOps, and what it leaves behind.
#include "ort/registration.h"

#include <cstdlib>
#include <map>
#include <mutex>

#include "dcc.h"
#include "kernels/isa.h"
#include "model/model_check.h"
#include "ort/session_options.h"

namespace dcc::ort {
namespace {

constexpr uint32_t kOldestVersion = 16;    // operators that return errors
constexpr uint32_t kNewestVersion = 24;    // kernels that see the entries of their session's options
constexpr uint32_t kOperatorVersion = 18;  // alias maps
constexpr char kRegisteredKey[] = "dcc.registered";
constexpr char kThreadsKey[] = "dcc.decode_threads";
constexpr char kExecutionKey[] = "dcc.execution";
constexpr char kBorrowKey[] = "session.use_ort_model_bytes_for_initializers";

// A decimal number of at most `most`, or nothing.
std::optional<uint64_t> parse_number(const std::string& text, uint64_t most) {
  uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9' || __builtin_mul_overflow(value, uint64_t{10}, &value) ||
        __builtin_add_overflow(value, static_cast<uint64_t>(c - '0'), &value) || value > most)
      return std::nullopt;
  }
  return text.empty() ? std::nullopt : std::optional(value);
}

const std::string* find_entry(const Entries& entries, const char* key) {
  const auto found = entries.find(key);
  return found == entries.end() ? nullptr : &found->second;
}

Settings settings_of(const Entries& entries) {
  Settings settings;
  if (const std::string* threads = find_entry(entries, kThreadsKey)) {
    const auto number = parse_number(*threads, 4096);
    if (!number)
      refuse(std::string(kThreadsKey) + " must be a number from 0 (all processors) to 4096, not '" + *threads + "'");
    settings.threads = static_cast<int>(*number);
  }
  if (const std::string* execution = find_entry(entries, kExecutionKey)) {
    settings.execution = *execution;
    if (*execution != "auto" && *execution != "dense" && *execution != "sparse")
      refuse(std::string(kExecutionKey) + " must be auto, dense or sparse, not '" + *execution + "'");
  }
  if (const std::string* bytes = find_entry(entries, kMaxDecodedKey)) {
    settings.max_decoded = parse_number(*bytes, UINT64_MAX);
    if (!settings.max_decoded) refuse(std::string(kMaxDecodedKey) + " must be a number of bytes, not '" + *bytes + "'");
  }
  const std::string* borrowing = find_entry(entries, kBorrowKey);
  settings.borrows_model_bytes = borrowing && *borrowing == "1";
  return settings;
}

// The settings in options at hand, of runtimes that cannot list entries, too.
Settings settings_in(const Api& api, const OrtSessionOptions* options) {
  Entries entries;
  for (const char* key : {kThreadsKey, kExecutionKey, kMaxDecodedKey, kBorrowKey})
    if (get<int>(api, api.HasSessionConfigEntry, options, key)) entries[key] = entry_of(api, options, key);
  return settings_of(entries);
}

// All registrations of the process. Never destroyed: sessions may outlive static objects.
class Registrations {
 public:
  static Registrations& instance() {
    static auto& all = *new Registrations;
    return all;
  }

  // The registration that these options belong to: made when there is none.
  const Registration& at(const Api& api, uint32_t version, const char* runtime, const OrtSessionOptions* options) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const void* address = api.KernelInfo_GetConfigEntries ? nullptr : options;
    std::unique_ptr<const Registration>& registration = registrations_[key(api, address)];
    if (!registration) registration = std::make_unique<const Registration>(api, version, runtime, address);
    return *registration;
  }

  // What was registered at this address before is dropped.
  void put(const Api& api, const OrtSessionOptions* options, std::shared_ptr<const Registered> registered) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<const Registered>& place = by_address_[key(api, options)];
    if (place) by_mark_.erase(place->mark);
    place = registered;
    by_mark_[registered->mark] = std::move(registered);
  }

  // What was registered last at an address, and under a mark; null when nothing is.
  std::shared_ptr<const Registered> at_address(const Api& api, const void* options) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = by_address_.find(key(api, options));
    return found == by_address_.end() ? nullptr : found->second;
  }
  std::shared_ptr<const Registered> under_mark(const std::string& mark) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = by_mark_.find(mark);
    return found == by_mark_.end() ? nullptr : found->second;
  }

  std::string new_mark() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::to_string(++marks_);
  }

  // The budget that a session's kernels share; the session is told by its logger.
  std::shared_ptr<Budget> budget(const OrtLogger* session, const Settings& settings) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<Budget> budget = budgets_[session].lock();
    if (!budget) {
      for (auto entry = budgets_.begin(); entry != budgets_.end();)
        entry = entry->first != session && entry->second.expired() ? budgets_.erase(entry) : std::next(entry);
      budget = std::make_shared<Budget>(settings.max_decoded);
      budgets_[session] = budget;
    }
    return budget;
  }

 private:
  using Key = std::pair<uintptr_t, const void*>;  // of the runtime, of the options

  static Key key(const Api& api, const void* options) {
    return {reinterpret_cast<uintptr_t>(api.CreateStatus), options};
  }

  std::mutex mutex_;
  std::map<Key, std::unique_ptr<const Registration>> registrations_;
  std::map<Key, std::shared_ptr<const Registered>> by_address_;
  std::map<std::string, std::shared_ptr<const Registered>> by_mark_;
  std::map<const OrtLogger*, std::weak_ptr<Budget>> budgets_;
  uint64_t marks_ = 0;
};

// The highest API version both sides know. Asking a runtime for a newer one than it has makes it print a complaint.
uint32_t common_version(const char* runtime) {
  char* end = nullptr;
  const unsigned long major = std::strtoul(runtime, &end, 10);
  const unsigned long minor = *end == '.' ? std::strtoul(end + 1, nullptr, 10) : 0;
  return major > 1 || minor > kNewestVersion ? kNewestVersion : static_cast<uint32_t>(minor);
}

void register_operators(OrtSessionOptions* options, const Api& api, uint32_t version, const char* runtime) {
  if (!isa_problem().empty()) refuse(isa_problem());
  Registrations& all = Registrations::instance();
  const std::string mark = entry_of(api, options, kRegisteredKey);
  const auto current = all.at_address(api, options);
  if (current && current->mark == mark) return;
  const Settings settings = settings_in(api, options);
  const Registration& registration = all.at(api, version, runtime, options);
  const std::string new_mark = all.new_mark();
  check(api, api.AddSessionConfigEntry(options, kRegisteredKey, new_mark.c_str()));
  // Copied before the outer graph's operators are there: every one that a session knows takes time when it is opened.
  const OrtSessionOptions* registered = options;
  Owned<OrtSessionOptions> copy(get<OrtSessionOptions*>(api, api.CloneSessionOptions, registered),
                                api.ReleaseSessionOptions);
  // a copy of registered options has the domain already, and a second one of its name would be refused
  if (mark.empty()) registration.add_own_domain(options);
  all.put(api, options, std::make_shared<const Registered>(Registered{new_mark, std::move(copy), settings}));
}

}  // namespace

Operator::Operator(const Registration& owner, const char* (*name)(const OrtCustomOp*))
    : OrtCustomOp(), registration(&owner) {
  version = owner.version < kOperatorVersion ? owner.version : kOperatorVersion;
  GetName = name;
  GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // CPU
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
}

struct Registration::Operators {
  explicit Operators(const Registration& owner)
      : own{decode_weights_operator(owner), decode_int8_operator(owner), compiled_model_operator(owner)},
        run{sparse_matmul_operator(owner), sparse_gemm_operator(owner), sparse_conv_operator(owner),
            sparse_int8_operator(owner), release_model_operator(owner)},
        own_domain(domain_of(owner.api, "dcc", own)),
        run_domain(domain_of(owner.api, kRunDomain.data(), run)) {}

  template <class Group>
  static OrtCustomOpDomain* domain_of(const Api& api, const char* name, const Group& group) {
    auto* domain = get<OrtCustomOpDomain*>(api, api.CreateCustomOpDomain, name);
    for (const Operator& op : group) check(api, api.CustomOpDomain_Add(domain, &op));
    return domain;
  }

  std::array<Operator, 3> own;
  std::array<Operator, 5> run;
  OrtCustomOpDomain *own_domain, *run_domain;
};

Registration::Registration(const Api& table, uint32_t api_version, std::string runtime_version, const void* options)
    : api(table),
      version(api_version),
      runtime(std::move(runtime_version)),
      address(options),
      operators_(new Operators(*this), [](const Operators* operators) { delete operators; }) {}

void Registration::add_own_domain(OrtSessionOptions* options) const {
  check(api, api.AddCustomOpDomain(options, operators_->own_domain));
}

void Registration::add_run_domain(OrtSessionOptions* options) const {
  check(api, api.AddCustomOpDomain(options, operators_->run_domain));
}

Context kernel_context(const Registration& owner, const OrtKernelInfo* info) {
  const Api& api = owner.api;
  Registrations& all = Registrations::instance();
  std::shared_ptr<const Registered> registered;
  Settings settings;
  if (api.KernelInfo_GetConfigEntries) {
    const Entries entries = read_entries(api, get<OrtKeyValuePairs*>(api, api.KernelInfo_GetConfigEntries, info));
    const std::string* mark = find_entry(entries, kRegisteredKey);
    if (mark) registered = all.under_mark(*mark);
    settings = settings_of(entries);
  } else {
    registered = all.at_address(api, owner.address);
    if (registered) settings = registered->settings;
  }
  if (!registered)
    refuse("the session options are a copy of options that are gone; register the dcc library on the copy, too");
  // Payloads would be read from, and weights decoded into, memory that the host may change, protect or free.
  if (settings.borrows_model_bytes)
    refuse("packed weights are not served from the bytes of the model: leave out the session option " +
           std::string(kBorrowKey));
  std::shared_ptr<Budget> budget = all.budget(get<const OrtLogger*>(api, api.KernelInfo_GetLogger, info), settings);
  return {owner, std::move(registered), settings, std::move(budget)};
}

}  // namespace dcc::ort

// The entry point that onnxruntime looks up in a custom-operator library.
extern "C" DCC_EXPORT dcc::ort::OrtStatus* RegisterCustomOps(dcc::ort::OrtSessionOptions* options,
                                                             const dcc::ort::OrtApiBase* base) {
  namespace ort = dcc::ort;
  const char* runtime = base->GetVersionString();
  const uint32_t version = ort::common_version(runtime);
  if (version < ort::kOldestVersion) {
    const std::string message = "the dcc library needs onnxruntime 1.16 or newer, this is " + std::string(runtime);
    // CreateStatus has been the first slot since version 1; the rest of the table may be too short to read.
    const auto create = *reinterpret_cast<ort::OrtStatus* (*const*)(int, const char*)>(base->GetApi(1));
    return create(ort::kFail, message.c_str());
  }
  const ort::Api api(base->GetApi(version), version);
  return ort::as_status(api, [&] { ort::register_operators(options, api, version, runtime); });
}
