// Where encodings live: three interfaces together, for the embedded store (in process) and the client of a node;
// nothing above them knows which. Whoever needs one of the three includes that one.
//
// Thread-safety: all methods may be called from many threads. Ownership: what a Store returns is released before it.
#ifndef KVLINK_STORE_STORE_H_
#define KVLINK_STORE_STORE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "store/admin.h"
#include "store/catalog.h"
#include "store/encodings.h"

namespace kvlink::store {

class Store : public EncodingStore, public DocumentCatalog, public StoreAdmin {};

// Namespace and document names: 1..255 bytes of valid UTF-8 without control characters.
absl::Status ValidateName(absl::string_view what, absl::string_view name);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_STORE_H_
