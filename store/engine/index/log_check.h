// Distinguishes a damaged log of the index from one whose end a crash tore off, which RocksDB cannot do.
//
// RocksDB replays its write-ahead log up to the first record that fails its check and drops the rest, which is right if
// the end was torn. We flush every change before the next one is written, so a crash can tear only the last record. A
// bad record followed by an intact one was damaged later, and acknowledged changes would be dropped silently. (A
// damaged last record looks the same as a torn one.)
//
// Log format: https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format, without recycling.
// Thread-safety: pure functions.
#ifndef KVLINK_STORE_ENGINE_INDEX_LOG_CHECK_H_
#define KVLINK_STORE_ENGINE_INDEX_LOG_CHECK_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "store/engine/disk/file.h"

namespace kvlink::engine {

// Cuts the end that a crash tore off the database's MANIFEST, which RocksDB would refuse to open. DATA_LOSS, and
// nothing is cut: damage within the first `durable_bytes` of MANIFEST number `durable_number`, which no crash can tear,
// or with an intact record after it. With `read_only`, cuts nothing.
absl::Status CutTornManifest(const FileSystem& files, const std::string& index_path, uint64_t durable_number,
                             int64_t durable_bytes, bool read_only);

// Checks the logs of a closed database, except those that the MANIFEST says are no longer needed, which RocksDB removes
// late. OK if there are no logs. DATA_LOSS, naming file and byte. UNAVAILABLE: a log cannot be read now.
absl::Status CheckLogs(const FileSystem& files, const std::string& index_path);

struct LogScan {
  int64_t bad = -1;               // offset of the first record that fails its check; -1: none
  bool starts_after_bad = false;  // whether an intact record begins after it
  bool any = false;               // whether there is any intact record
};
LogScan ScanLog(absl::string_view log);

// The number of the first log that a MANIFEST says is still needed; 0 if it does not say.
uint64_t FirstLogNeeded(absl::string_view manifest);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_LOG_CHECK_H_
