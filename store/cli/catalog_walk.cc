// A page of documents takes one listing, one read of their entries, and one lookup per codec. Entries of long documents
// take up to 4 MiB each, so these are read and visited in parts of a page.
#include "store/cli/catalog_walk.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/slab.h"
#include "base/status.h"

namespace kvlink::cli {

std::string CountOf(int64_t documents) { return absl::StrCat(documents, documents == 1 ? " document" : " documents"); }

absl::Status WalkCatalog(store::Store& store, absl::string_view ns,
                         const std::function<absl::Status(absl::Span<const Listed>)>& visit) {
  constexpr int64_t kPage = 1000, kTokens = int64_t{4} << 20;
  std::string after;
  for (;;) {
    KVLINK_ASSIGN_OR_RETURN(std::vector<store::DocumentInfo> page, store.ListDocuments(ns, after, kPage));
    if (page.empty()) return absl::OkStatus();
    after = page.back().id;
    for (size_t next = 0; next < page.size();) {
      const size_t begin = next;
      std::vector<std::string> ids;
      int64_t tokens = 0;
      do {
        tokens += page[next].tokens;
        ids.push_back(page[next++].id);
      } while (next < page.size() && tokens + page[next].tokens <= kTokens);
      KVLINK_ASSIGN_OR_RETURN(auto entries, store.GetDocuments(ns, ids));
      std::vector<Listed> documents;
      for (size_t i = 0; i < ids.size(); ++i) {
        if (absl::IsNotFound(entries[i].status())) continue;
        KVLINK_RETURN_IF_ERROR(entries[i].status());
        documents.push_back({std::move(page[begin + i]), *std::move(entries[i])});
      }
      KVLINK_RETURN_IF_ERROR(visit(documents));
    }
  }
}

absl::StatusOr<std::vector<bool>> HaveEncodings(store::Store& store, absl::string_view ns,
                                                absl::Span<const Listed> documents) {
  std::vector<Identity> identities;
  for (const Listed& document : documents) {
    for (const CatalogPart& part : document.entry.parts) identities.push_back(part.identity);
  }
  absl::flat_hash_set<Identity> present;
  for (const Codec codec : {Codec::kRawBf16, Codec::kRawF32, Codec::kQ8, Codec::kQ4}) {
    KVLINK_ASSIGN_OR_RETURN(const auto found, store.Lookup(ns, identities, codec));
    for (size_t i = 0; i < found.size(); ++i) {
      if (found[i].present) present.insert(identities[i]);
    }
  }
  std::vector<bool> have;
  for (const Listed& document : documents) {
    have.push_back(std::all_of(document.entry.parts.begin(), document.entry.parts.end(),
                               [&](const CatalogPart& part) { return present.contains(part.identity); }));
  }
  return have;
}

}  // namespace kvlink::cli
