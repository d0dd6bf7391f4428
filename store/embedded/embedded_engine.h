// The Store interface over an engine opened with the caller's own options, for tests and benches.
#ifndef KVLINK_STORE_EMBEDDED_EMBEDDED_ENGINE_H_
#define KVLINK_STORE_EMBEDDED_EMBEDDED_ENGINE_H_

#include <memory>

#include "store/engine/engine.h"
#include "store/store.h"

namespace kvlink::store {

// Thread-safety: as Store. The store owns the engine and closes it.
std::unique_ptr<Store> StoreOver(std::unique_ptr<engine::Engine> engine);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_EMBEDDED_EMBEDDED_ENGINE_H_
