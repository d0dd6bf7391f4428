// JSON lines, the first with the settings. A line is appended by one write, so that a process that is killed leaves at
// most one line without its end.
#include "worker/eval/results.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace kvlink::eval {
namespace {

using Json = nlohmann::ordered_json;
// What is read. The other copies members when it grows, by recursion into lists however deep they are.
using ParsedJson = nlohmann::json;

constexpr int kVersion = 1;
constexpr char kVersionName[] = "kvlink_eval";
constexpr int64_t kMaxFileBytes = int64_t{1} << 30;
constexpr size_t kMaxLineBytes = size_t{1} << 24;  // what is read of it takes a hundred times as much memory at worst
constexpr int64_t kMaxCount = int64_t{1} << 40;    // of bytes or tokens; the sum of as many lines as a file holds fits

std::string LineOf(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

std::string HeadLine(const Settings& settings) { return LineOf({{kVersionName, kVersion}, {"settings", settings}}); }

std::string ResultLine(const Result& result) {
  Json json = {{"item", result.item},   {"kind", result.kind},   {"linker", result.linker},
               {"order", result.order}, {"codec", result.codec}, {"answer", result.answer}};
  const auto add = [&json](const char* name, const std::optional<double>& value) {
    if (value) json[name] = *value;
  };
  add("exact", result.exact);
  add("f1", result.f1);
  add("rouge_l", result.rouge_l);
  add("choice", result.choice);
  json["divergence"] = result.divergence;
  add("cross_entropy", result.cross_entropy);
  if (result.expected_tokens) json["expected_tokens"] = *result.expected_tokens;
  json["first_token_seconds"] = result.first_token_seconds;
  json["bytes_read"] = result.bytes_read;
  json["prompt_tokens"] = result.prompt_tokens;
  json["fresh_tokens"] = result.fresh_tokens;
  json["documents_encoded"] = result.documents_encoded;
  if (result.document_tokens) json["document_tokens"] = *result.document_tokens;
  if (result.recomputed_tokens) json["recomputed_tokens"] = *result.recomputed_tokens;
  return LineOf(json);
}

// Takes members of a line; remembers the first that is missing, of another type or out of range.
class Members {
 public:
  explicit Members(const ParsedJson& json) : json_(json) {}
  void Take(const char* name, std::string* out) {
    if (const ParsedJson* value = Find(name, &ParsedJson::is_string)) *out = value->get<std::string>();
  }
  void Take(const char* name, double* out) {
    if (const ParsedJson* value = Find(name, &ParsedJson::is_number)) *out = value->get<double>();
  }
  void Take(const char* name, int64_t* out) {
    const ParsedJson* const value = Find(name, &ParsedJson::is_number_integer);
    if (value == nullptr) return;
    *out = value->get<int64_t>();
    if ((*out < 0 || *out > kMaxCount) && bad_.empty()) bad_ = name;
  }
  template <typename T>
  void Take(const char* name, std::optional<T>* out) {
    if (json_.contains(name)) Take(name, &out->emplace());
  }
  absl::Status status() const {
    if (bad_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("\"", bad_, "\" is missing, of another type or out of range"));
  }

 private:
  const ParsedJson* Find(const char* name, bool (ParsedJson::*is)() const noexcept) {
    const auto it = json_.find(name);
    if (it != json_.end() && ((*it).*is)()) return &*it;
    if (bad_.empty()) bad_ = name;
    return nullptr;
  }

  const ParsedJson& json_;
  std::string bad_;
};

absl::StatusOr<Result> ParseResult(absl::string_view line) {
  const ParsedJson json = ParsedJson::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  Result result;
  Members members(json);
  members.Take("item", &result.item);
  members.Take("kind", &result.kind);
  members.Take("linker", &result.linker);
  members.Take("order", &result.order);
  members.Take("codec", &result.codec);
  members.Take("answer", &result.answer);
  members.Take("exact", &result.exact);
  members.Take("f1", &result.f1);
  members.Take("rouge_l", &result.rouge_l);
  members.Take("choice", &result.choice);
  members.Take("divergence", &result.divergence);
  members.Take("cross_entropy", &result.cross_entropy);
  members.Take("expected_tokens", &result.expected_tokens);
  members.Take("first_token_seconds", &result.first_token_seconds);
  members.Take("bytes_read", &result.bytes_read);
  members.Take("prompt_tokens", &result.prompt_tokens);
  members.Take("fresh_tokens", &result.fresh_tokens);
  members.Take("documents_encoded", &result.documents_encoded);
  members.Take("document_tokens", &result.document_tokens);
  members.Take("recomputed_tokens", &result.recomputed_tokens);
  KVLINK_RETURN_IF_ERROR(members.status());
  return result;
}

absl::Status CheckHead(absl::string_view line, const Settings& wanted) {
  const ParsedJson json = ParsedJson::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains(kVersionName) || !json[kVersionName].is_number() ||
      !json.contains("settings") || !json["settings"].is_object()) {
    return absl::InvalidArgumentError("not a results file of kvlink eval; name another");
  }
  if (json[kVersionName] != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat("results of format ", json[kVersionName].dump(),
                                                   ", this program reads format ", kVersion, "; name another file"));
  }
  std::map<std::string, std::string> names = wanted;
  for (const auto& [name, value] : json["settings"].items()) names.try_emplace(name);
  std::vector<std::string> differences;
  for (const auto& [name, unused] : names) {
    const auto there = json["settings"].find(name);
    const auto here = wanted.find(name);
    const std::string old = there == json["settings"].end() ? "none"
                            : there->is_string()            ? there->get<std::string>()
                                                            : absl::StrCat("of type ", there->type_name());
    const std::string now = here == wanted.end() ? "none" : here->second;
    if (old != now) differences.push_back(absl::StrCat(name, " was ", old, " and is ", now));
  }
  if (differences.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("results of other settings: ", absl::StrJoin(differences, ", "), "; name another file"));
}

absl::StatusOr<std::string> ReadAll(int file, const std::string& path) {
  struct stat state = {};
  if (fstat(file, &state) != 0) return absl::ErrnoToStatus(errno, path);
  if (!S_ISREG(state.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  if (state.st_size > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": larger than 1 GiB; name another file"));
  }
  std::string bytes(state.st_size, '\0');
  for (size_t have = 0; have < bytes.size();) {
    const ssize_t n = pread(file, bytes.data() + have, bytes.size() - have, static_cast<off_t>(have));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, path);
    if (n == 0) bytes.resize(have);
    have += static_cast<size_t>(n);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Results>> Results::Open(const std::string& path, const Settings& settings) {
  auto results = std::make_unique<Results>();
  results->path_ = path;
  results->file_ = Descriptor(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (results->file_.get() < 0) return absl::ErrnoToStatus(errno, path);
  if (flock(results->file_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return absl::ErrnoToStatus(errno, path);
    return absl::UnavailableError(absl::StrCat(path, ": another process is writing results to it"));
  }
  KVLINK_RETURN_IF_ERROR(results->Read(settings));
  return results;
}

absl::Status Results::Read(const Settings& settings) {
  KVLINK_ASSIGN_OR_RETURN(std::string bytes, ReadAll(file_.get(), path_));
  const size_t whole = bytes.rfind('\n') == std::string::npos ? 0 : bytes.rfind('\n') + 1;
  // Without a whole line, only the beginning of a head may be dropped: this may be somebody else's file.
  if (whole == 0 && HeadLine(settings).compare(0, bytes.size(), bytes) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": not a results file of kvlink eval; name another"));
  }
  const absl::string_view text(bytes.data(), whole);
  int64_t number = 0;
  for (size_t begin = 0; begin < whole;) {
    const size_t end = text.find('\n', begin);
    const absl::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.size() > kMaxLineBytes) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ":", number, ": a line is too long"));
    }
    if (number == 1) {
      KVLINK_RETURN_IF_ERROR(Annotate(CheckHead(line, settings), path_));
      continue;
    }
    auto result = ParseResult(line);
    KVLINK_RETURN_IF_ERROR(Annotate(result.status(), absl::StrCat(path_, ":", number)));
    Add(*std::move(result));
  }
  if (whole < bytes.size() && ftruncate(file_.get(), static_cast<off_t>(whole)) != 0)
    return absl::ErrnoToStatus(errno, path_);
  return number == 0 ? Write(HeadLine(settings)) : absl::OkStatus();
}

absl::Status Results::Write(const std::string& line) {
  for (size_t have = 0; have < line.size();) {
    const ssize_t n = write(file_.get(), line.data() + have, line.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, path_);
    have += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

void Results::Add(Result result) {
  // Twice the same key: a file put together by hand; the first counts.
  if (keys_.insert(result.key()).second) results_.push_back(std::move(result));
}

absl::Status Results::Append(Result result) {
  if (file_.get() >= 0) KVLINK_RETURN_IF_ERROR(Write(ResultLine(result)));
  Add(std::move(result));
  return absl::OkStatus();
}

}  // namespace kvlink::eval
