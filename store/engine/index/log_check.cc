#include "store/engine/index/log_check.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "base/checksum.h"
#include "base/status.h"

namespace kvlink::engine {
namespace {

constexpr int64_t kBlock = 32768;
constexpr int64_t kHeader = 7;  // u32 masked CRC32C of type and payload, u16 length, u8 type
constexpr uint8_t kFull = 1, kFirst = 2, kLast = 4;
constexpr int64_t kMaxLogBytes = int64_t{1} << 30;

struct Record {
  bool intact = false;
  bool empty = false;  // zeros, or the last few bytes of a block: nothing was written here
  uint8_t type = 0;
  int64_t end = 0;
};

Record ReadRecord(absl::string_view log, int64_t at) {
  Record record;
  const int64_t block_end = std::min<int64_t>((at / kBlock + 1) * kBlock, static_cast<int64_t>(log.size()));
  record.end = block_end;
  if (block_end - at < kHeader) {
    record.empty = true;
    return record;
  }
  const auto byte = [&](int64_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(log[at + i])); };
  const uint32_t crc = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
  const int64_t length = byte(4) | byte(5) << 8;
  record.type = static_cast<uint8_t>(byte(6));
  if (crc == 0 && length == 0 && record.type == 0) {
    record.empty = true;
    return record;
  }
  if (record.type < kFull || record.type > kLast || at + kHeader + length > block_end) return record;
  record.intact = MaskedCrc32c(log.data() + at + 6, static_cast<size_t>(1 + length)) == crc;
  if (record.intact) record.end = at + kHeader + length;
  return record;
}

}  // namespace

LogScan ScanLog(absl::string_view log) {
  LogScan scan;
  int64_t at = 0;
  const int64_t size = static_cast<int64_t>(log.size());
  while (at < size) {
    const Record record = ReadRecord(log, at);
    if (record.intact) {
      scan.any = true;
      at = record.end;
      continue;
    }
    if (record.empty) {
      // Preallocated space, or the hole of a lost write: what follows in the block counts only if it is intact.
      const bool zeros = std::all_of(log.begin() + at, log.begin() + record.end, [](char c) { return c == 0; });
      if (!zeros && record.end - at >= kHeader && scan.bad < 0) scan.bad = at;
      if (zeros || scan.bad < 0) {
        at = record.end;
        continue;
      }
    } else if (scan.bad < 0) {
      scan.bad = at;
    }
    break;
  }
  if (scan.bad < 0) return scan;
  // After the damage, records may begin at any byte of this block, and at the start of each later one.
  const int64_t block_end = std::min(size, (scan.bad / kBlock + 1) * kBlock);
  for (at = scan.bad + 1; at < block_end && !scan.starts_after_bad; ++at) {
    const Record record = ReadRecord(log, at);
    scan.starts_after_bad = record.intact && (record.type == kFull || record.type == kFirst);
  }
  for (int64_t block = block_end; block < size && !scan.starts_after_bad; block += kBlock) {
    for (at = block; at < std::min(size, block + kBlock);) {
      const Record record = ReadRecord(log, at);
      if (!record.intact) break;
      scan.starts_after_bad |= record.type == kFull || record.type == kFirst;
      at = record.end;
    }
  }
  return scan;
}

namespace {

// Reads the MANIFEST's records: edits of tags and values (RocksDB's VersionEdit). The tags that name the needed logs
// come first; reading stops at the first tag that is not one of these.
class EditReader {
 public:
  explicit EditReader(absl::string_view bytes) : bytes_(bytes) {}
  // 0 if the edit names none.
  uint64_t FirstLog() {
    constexpr uint64_t kComparator = 1, kLog = 2, kNextFile = 3, kSequence = 4, kPrevLog = 9, kFirstLog = 10;
    constexpr uint64_t kMaxColumnFamily = 203, kDatabaseId = 8193;
    uint64_t tag = 0, value = 0;
    while (Varint(&tag)) {
      if (!Varint(&value)) return 0;
      switch (tag) {
        case kFirstLog:
          return value;
        case kComparator:
        case kDatabaseId:
          if (value > bytes_.size()) return 0;
          bytes_.remove_prefix(value);
          break;
        case kLog:
        case kNextFile:
        case kSequence:
        case kPrevLog:
        case kMaxColumnFamily:
          break;
        default:
          return 0;
      }
    }
    return 0;
  }

 private:
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes_.front());
      bytes_.remove_prefix(1);
      *value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  absl::string_view bytes_;
};

// Returns the name in CURRENT, e.g. "MANIFEST-000012", or "" if it cannot be read.
std::string CurrentManifest(const FileSystem& files, const std::string& index_path) {
  const auto current = files.ReadWhole(index_path + "/CURRENT", 4096);
  return current.ok() ? std::string(absl::StripTrailingAsciiWhitespace(*current)) : "";
}

}  // namespace

uint64_t FirstLogNeeded(absl::string_view manifest) {
  uint64_t first = 0;
  std::string edit;
  for (int64_t at = 0; at < static_cast<int64_t>(manifest.size());) {
    const Record record = ReadRecord(manifest, at);
    if (record.intact) {
      if (record.type == kFull || record.type == kFirst) edit.clear();
      const absl::string_view bytes = manifest.substr(at + kHeader, record.end - at - kHeader);
      edit.append(bytes.data(), bytes.size());
      if (record.type == kFull || record.type == kLast) first = std::max(first, EditReader(edit).FirstLog());
    } else if (!record.empty) {
      break;
    }
    at = record.end;
  }
  return first;
}

absl::Status CutTornManifest(const FileSystem& files, const std::string& index_path, uint64_t durable_number,
                             int64_t durable_bytes, bool read_only) {
  const std::string name = CurrentManifest(files, index_path);  // RocksDB reports problems with it
  absl::string_view digits = name;
  uint64_t number = 0;
  if (!absl::ConsumePrefix(&digits, "MANIFEST-") || !absl::SimpleAtoi(digits, &number)) return absl::OkStatus();
  const std::string path = absl::StrCat(index_path, "/", name);
  const auto manifest = files.ReadWhole(path, kMaxLogBytes);
  if (!manifest.ok()) return absl::OkStatus();
  const LogScan scan = ScanLog(*manifest);
  const int64_t good = scan.bad < 0 ? static_cast<int64_t>(manifest->size()) : scan.bad;
  if (number < durable_number || (number == durable_number && good < durable_bytes)) {
    return absl::DataLossError(absl::StrCat("the index's ", name, " is damaged at byte ", good));
  }
  if (scan.starts_after_bad) {
    return absl::DataLossError(
        absl::StrCat("the index's ", name, " is damaged at byte ", good, ", and later changes follow it"));
  }
  if (scan.bad < 0 || !scan.any || read_only) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(auto file, files.Open(path, {.write = true}));
  KVLINK_RETURN_IF_ERROR(file->Resize(scan.bad));
  return file->Sync();
}

absl::Status CheckLogs(const FileSystem& files, const std::string& index_path) {
  const auto names = files.List(index_path);
  if (absl::IsNotFound(names.status())) return absl::OkStatus();
  KVLINK_RETURN_IF_ERROR(names.status());
  const auto manifest = files.ReadWhole(index_path + "/" + CurrentManifest(files, index_path), kMaxLogBytes);
  const uint64_t first = manifest.ok() ? FirstLogNeeded(*manifest) : 0;
  std::string damaged;
  for (const std::string& name : *names) {  // zero-padded numbers: in the order they were written
    if (!absl::EndsWith(name, ".log")) continue;
    uint64_t number = 0;
    if (absl::SimpleAtoi(absl::StripSuffix(name, ".log"), &number) && number < first) continue;
    const auto log = files.ReadWhole(index_path + "/" + name, kMaxLogBytes);
    // A log that cannot be read now need not be damaged.
    if (absl::IsDataLoss(log.status())) return absl::UnavailableError(log.status().message());
    KVLINK_RETURN_IF_ERROR(log.status());
    const LogScan scan = ScanLog(*log);
    if (!damaged.empty() && scan.any) return absl::DataLossError(damaged);
    if (scan.bad < 0) continue;
    damaged = absl::StrCat("the index's log ", name, " is damaged at byte ", scan.bad, ", and later changes follow it");
    if (scan.starts_after_bad) return absl::DataLossError(damaged);
  }
  return absl::OkStatus();
}

}  // namespace kvlink::engine
