// RocksDB's file system with the seam of io_observer.h. Thread-safety: all functions are thread-safe.
#ifndef KVLINK_STORE_ENGINE_INDEX_ROCKSDB_FILE_SYSTEM_H_
#define KVLINK_STORE_ENGINE_INDEX_ROCKSDB_FILE_SYSTEM_H_

#include <cstdint>
#include <memory>

#include "base/mutex.h"
#include "rocksdb/file_system.h"
#include "store/engine/disk/io_observer.h"

namespace kvlink::engine {

// How much of the latest MANIFEST is known to be durable. Thread-safe.
class DurableManifest {
 public:
  struct State {
    uint64_t number = 0;
    int64_t bytes = 0;
  };
  State Get() const {
    MutexLock lock(&mutex_);
    return state_;
  }
  // Moves forward only.
  void Raise(const State& state) {
    MutexLock lock(&mutex_);
    if (state.number > state_.number || (state.number == state_.number && state.bytes > state_.bytes)) state_ = state;
  }

 private:
  mutable Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_);
};

// Returns RocksDB's own file system, which reports every change to `observer` (may be null) and every flush of a
// MANIFEST to `manifest`. Both must outlive it.
std::shared_ptr<rocksdb::FileSystem> ObservedRocksDbFileSystem(IoObserver* observer, DurableManifest* manifest);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_ROCKSDB_FILE_SYSTEM_H_
