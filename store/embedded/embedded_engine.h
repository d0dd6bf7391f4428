// The Store interface over an engine opened with options of the caller's: for tests and benches.
#ifndef KVLINK_STORE_EMBEDDED_EMBEDDED_ENGINE_H_
#define KVLINK_STORE_EMBEDDED_EMBEDDED_ENGINE_H_

#include <memory>

#include "store/engine/engine.h"
#include "store/store.h"

namespace kvlink::store {

// Thread-safety: as Store. The engine is closed with the store.
std::unique_ptr<Store> StoreOver(std::unique_ptr<engine::Engine> engine);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_EMBEDDED_EMBEDDED_ENGINE_H_
