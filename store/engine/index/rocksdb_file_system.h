// RocksDB's file system behind the seam of io_observer.h.
#ifndef KVLINK_STORE_ENGINE_INDEX_ROCKSDB_FILE_SYSTEM_H_
#define KVLINK_STORE_ENGINE_INDEX_ROCKSDB_FILE_SYSTEM_H_

#include <cstdint>
#include <memory>

#include "base/mutex.h"
#include "rocksdb/file_system.h"
#include "store/engine/disk/io_observer.h"

namespace kvlink::engine {

// How far the MANIFEST written last is known to be durable. Thread-safe.
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
  // Only ever moves forward.
  void Raise(const State& state) {
    MutexLock lock(&mutex_);
    if (state.number > state_.number || (state.number == state_.number && state.bytes > state_.bytes)) state_ = state;
  }

 private:
  mutable Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_);
};

// RocksDB's own file system, telling `observer` (may be null) of every change and `manifest` of every flush of a
// MANIFEST. Both outlive it.
std::shared_ptr<rocksdb::FileSystem> ObservedRocksDbFileSystem(IoObserver* observer, DurableManifest* manifest);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_ROCKSDB_FILE_SYSTEM_H_
