// Tells a damaged log of the index from one whose end a crash tore off, which RocksDB cannot.
//
// RocksDB replays its write-ahead log up to the first record that does not check out and drops the rest, as it must
// where the end was torn. Every change of ours is flushed before the next is written, so what a crash tears is the last
// record; one that does not check out with an intact one behind it was damaged later, and changes that were
// acknowledged would be dropped silently. (A damaged last record looks the same as a torn one.)
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

// Cuts off the end of the database's MANIFEST that a crash tore, which RocksDB refuses to open. DATA_LOSS: damage
// within the first `durable_bytes` of MANIFEST number `durable_number`, which no crash can tear. With `read_only`
// nothing is cut.
absl::Status CutTornManifest(const FileSystem& files, const std::string& index_path, uint64_t durable_number,
                             int64_t durable_bytes, bool read_only);

// Checks the logs of a closed database, without those that the MANIFEST says are no longer needed: RocksDB removes them
// late. DATA_LOSS naming file and byte; OK if there are none. UNAVAILABLE: one cannot be read now.
absl::Status CheckLogs(const FileSystem& files, const std::string& index_path);

struct LogScan {
  int64_t bad = -1;               // where the first record lies that does not check out; -1: none
  bool starts_after_bad = false;  // whether an intact record begins behind it
  bool any = false;               // whether there is any intact record
};
LogScan ScanLog(absl::string_view log);

// The number of the first log that a MANIFEST says is still needed; 0 if it does not say.
uint64_t FirstLogNeeded(absl::string_view manifest);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_LOG_CHECK_H_
