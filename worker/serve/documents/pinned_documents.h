// The documents whose encodings this server has pinned in its store. A document is pinned or not, however often that is
// asked for, although the store counts pins: so a client may repeat what it got no answer to. What is pinned are the
// encodings that the document had then.
//
// The pins belong to this process's session with the store: they end with it, and when a node starts again. Pinning a
// document again renews them.
//
// Thread-safety: one thread at a time, but size() by all. Lifetime: the store outlives the object.
#ifndef KVLINK_WORKER_SERVE_DOCUMENTS_PINNED_DOCUMENTS_H_
#define KVLINK_WORKER_SERVE_DOCUMENTS_PINNED_DOCUMENTS_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "proto/catalog.h"
#include "proto/digest.h"
#include "proto/manifest.h"
#include "store/store.h"

namespace kvlink::serve {

class PinnedDocuments {
 public:
  struct Options {
    std::string ns = "default";
    Codec codec = Codec::kRawBf16;
    int64_t max_documents = 10000;
  };
  PinnedDocuments(store::Store* store, Options options) : store_(store), options_(std::move(options)) {}

  // Pins the encodings of all parts; on an error, of none. FAILED_PRECONDITION: the store lacks some.
  // RESOURCE_EXHAUSTED: too many documents are pinned here, or too many bytes in the namespace. Errors of the store.
  absl::Status Pin(const std::string& id, const CatalogEntry& entry);
  // OK also if it was not pinned. On an error of the store it stays known, for another try.
  absl::Status Unpin(const std::string& id);
  int64_t size() const { return size_; }

 private:
  // Unpins those that are pinned, from the end.
  absl::Status Unpin(std::vector<Identity>* pinned);

  store::Store* const store_;
  const Options options_;
  std::map<std::string, std::vector<Identity>> pinned_;  // by id
  std::atomic<int64_t> size_{0};
};

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_DOCUMENTS_PINNED_DOCUMENTS_H_
