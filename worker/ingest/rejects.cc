// Flushes each line, so that a killed run leaves what it had found.
#include "worker/ingest/rejects.h"

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace kvlink::ingest {

std::string PartialOf(const std::string& path) { return path + ".partial"; }

absl::StatusOr<std::unique_ptr<RejectFile>> RejectFile::Create(const std::string& path) {
  // Else only the end of the run would show it.
  if (std::error_code error; std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot write rejects: it is a directory; name a file"));
  }
  std::string partial = PartialOf(path);
  KVLINK_ASSIGN_OR_RETURN(
      OwnFile file,
      OpenOwnFile(partial, "another process writes its rejects there; give each shard a file of its own"));
  return std::unique_ptr<RejectFile>(new RejectFile(path, std::move(partial), std::move(file)));
}

absl::Status RejectFile::Fail() const {
  return absl::ErrnoToStatus(errno, absl::StrCat(partial_, ": cannot write rejects"));
}

absl::Status RejectFile::Add(const Failure& failure) {
  using Json = nlohmann::ordered_json;
  Json line = {{"where", std::string(failure.where)}, {"position", failure.position}};
  if (!failure.id.empty()) line["id"] = std::string(failure.id);
  line["reason"] = std::string(failure.status.message());
  if (!failure.title.empty()) line["title"] = std::string(failure.title);
  if (!failure.text.empty()) line["text"] = std::string(failure.text);
  // Names and reasons may contain bytes that are not UTF-8, as the input did.
  const std::string bytes = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size() || std::fflush(file_.get()) != 0)
    return Fail();
  return absl::OkStatus();
}

absl::Status RejectFile::Finish() {
  if (std::rename(partial_.c_str(), path_.c_str()) != 0 || std::fclose(file_.release()) != 0) return Fail();
  return absl::OkStatus();
}

}  // namespace kvlink::ingest
