// Numbered from 0, as Kubernetes numbers the pods of a job, so that one manifest serves all of them.
#include "worker/ingest/source/shard.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/types/span.h"
#include "proto/digest.h"

namespace kvlink::ingest {
namespace {

bool IsDigits(absl::string_view text) {
  return !text.empty() && text.size() <= 9 && text.find_first_not_of("0123456789") == absl::string_view::npos;
}

}  // namespace

uint64_t IdHash(absl::string_view id) {
  return Checksum64(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(id.data()), id.size()));
}

absl::StatusOr<Shard> ParseShard(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '/');
  Shard shard;
  if (parts.size() != 2 || !IsDigits(parts[0]) || !IsDigits(parts[1]) || !absl::SimpleAtoi(parts[0], &shard.index) ||
      !absl::SimpleAtoi(parts[1], &shard.count)) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard '", text.substr(0, 40), "' is not I/N; the shards of four are 0/4, 1/4, 2/4 and 3/4"));
  }
  if (shard.count < 1 || shard.count > kMaxShards || shard.index >= shard.count) {
    return absl::InvalidArgumentError(absl::StrCat("shard ", text,
                                                   " does not exist; of N shards the first is 0/N, the "
                                                   "last N-1/N, and N is at most ",
                                                   kMaxShards));
  }
  return shard;
}

absl::StatusOr<Shard> ShardOfJob(int64_t count, const char* index) {
  if (index == nullptr || *index == '\0') {
    return absl::InvalidArgumentError(
        "JOB_COMPLETION_INDEX is not set, which says which of the shards this is; run in an indexed job of Kubernetes, "
        "or name the shard (--shard I/N)");
  }
  return ParseShard(absl::StrCat(index, "/", count));
}

}  // namespace kvlink::ingest
