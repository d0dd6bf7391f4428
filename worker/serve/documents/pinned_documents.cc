// Old pins are released before new ones are taken: in between, the encodings are as any others, and if one of them
// goes, the document is not pinned and its client is told so. The other way round, pins that a node has forgotten would
// be released again right after they are renewed.
#include "worker/serve/documents/pinned_documents.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::serve {

absl::Status PinnedDocuments::Pin(const std::string& id, const CatalogEntry& entry) {
  KVLINK_RETURN_IF_ERROR(Unpin(id));
  if (size_ >= options_.max_documents) {
    return absl::ResourceExhaustedError(
        absl::StrCat("this server has pinned ", size_.load(), " documents, as many as it may; unpin others first"));
  }
  std::vector<Identity> pinned;
  absl::Status status;
  for (const CatalogPart& part : entry.parts) {
    status = store_->Pin(options_.ns, part.identity, options_.codec);
    if (!status.ok()) break;
    pinned.push_back(part.identity);
  }
  if (!status.ok() && !Unpin(&pinned).ok()) {
    pinned_[id] = std::move(pinned);  // so that unpinning it tries again
    size_ = static_cast<int64_t>(pinned_.size());
  }
  if (absl::IsNotFound(status)) {
    return absl::FailedPreconditionError("the store lacks an encoding of the document; put it again");
  }
  KVLINK_RETURN_IF_ERROR(status);
  pinned_[id] = std::move(pinned);
  size_ = static_cast<int64_t>(pinned_.size());
  return absl::OkStatus();
}

absl::Status PinnedDocuments::Unpin(const std::string& id) {
  const auto found = pinned_.find(id);
  if (found == pinned_.end()) return absl::OkStatus();
  KVLINK_RETURN_IF_ERROR(Unpin(&found->second));
  pinned_.erase(found);
  size_ = static_cast<int64_t>(pinned_.size());
  return absl::OkStatus();
}

absl::Status PinnedDocuments::Unpin(std::vector<Identity>* pinned) {
  for (; !pinned->empty(); pinned->pop_back()) {
    const absl::Status status = store_->Unpin(options_.ns, pinned->back(), options_.codec);
    // Gone with its document, or with the session.
    if (!status.ok() && !absl::IsNotFound(status) && !absl::IsFailedPrecondition(status)) return status;
  }
  return absl::OkStatus();
}

}  // namespace kvlink::serve
