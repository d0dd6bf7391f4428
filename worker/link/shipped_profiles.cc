// The profiles shipped in the binary, in the JSON that a user would write.
#include "worker/link/shipped_profiles.h"

namespace kvlink::link {
namespace {

// For chat models that were not tuned for linked documents.
constexpr absl::string_view kUntuned = R"json({
  "name": "untuned",
  "trained": false,
  "links_per_document": 0,
  "document_template": "Title: {title}\n{text}\n",
  "place": "in-user"
})json";

// The authors' Llama-3 checkpoints (arXiv 2502.16002) use reserved ids of Llama-3: link j of slot i is 128011 + i * N +
// j, 40 slots; 128254 opens the documents and 128255 closes them. Text and place of the documents are those of the
// authors' evaluation, except that theirs numbers them, `Document [2](Title: ...`: then an encoding would depend on its
// slot.
constexpr absl::string_view kLlama1 = R"json({
  "name": "kvlink-llama-1",
  "trained": true,
  "links_per_document": 1,
  "slots": 40,
  "first_link_id": 128011,
  "mem_start": 128254,
  "mem_end": 128255,
  "linker": "links",
  "document_template": "Document (Title: {title}) {text}\n",
  "place": "in-user"
})json";

constexpr absl::string_view kLlama5 = R"json({
  "name": "kvlink-llama-5",
  "trained": true,
  "links_per_document": 5,
  "slots": 40,
  "first_link_id": 128011,
  "mem_start": 128254,
  "mem_end": 128255,
  "linker": "links",
  "document_template": "Document (Title: {title}) {text}\n",
  "place": "in-user"
})json";

constexpr ShippedProfile kProfiles[] = {
    {"untuned", kUntuned}, {"kvlink-llama-1", kLlama1}, {"kvlink-llama-5", kLlama5}};

}  // namespace

absl::Span<const ShippedProfile> ShippedProfiles() { return kProfiles; }

}  // namespace kvlink::link
