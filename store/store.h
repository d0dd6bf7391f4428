// The storage interface: EncodingStore, DocumentCatalog and StoreAdmin combined. Implemented by the embedded store (in
// process) and by clients of a node or a cluster; layers above do not know which. Code that needs only one of the three
// includes that header.
//
// Thread-safety: all methods may be called from many threads. Ownership: everything a Store returns must be released
// before the Store.
#ifndef KVLINK_STORE_STORE_H_
#define KVLINK_STORE_STORE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "store/admin.h"
#include "store/catalog.h"
#include "store/encodings.h"

namespace kvlink::store {

class Store : public EncodingStore, public DocumentCatalog, public StoreAdmin {};

// Checks a namespace or document name: 1..255 bytes of valid UTF-8 without control characters. INVALID_ARGUMENT, naming
// `what`.
absl::Status ValidateName(absl::string_view what, absl::string_view name);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_STORE_H_
