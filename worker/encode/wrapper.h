// The wrapper of a link profile: trained soft tokens that stand in a document's own segment, a header before the
// document's tokens and a trailer after them. They are encoded and stored with the document, at positions of their own
// (after KV Packet, arXiv 2604.13226). Thread-safety: plain values and pure functions.
#ifndef KVLINK_WORKER_ENCODE_WRAPPER_H_
#define KVLINK_WORKER_ENCODE_WRAPPER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/files/config.h"
#include "worker/link/profile.h"

namespace kvlink::encode {

struct Wrapper {
  int64_t header = 0;             // tokens
  int64_t trailer = 0;            // tokens
  std::vector<float> embeddings;  // [header + trailer, hidden]
  // The context digest of encodings inside it (docs/formats.md "Identity"), 32 bytes. Empty: no wrapper.
  std::string digest;

  int64_t tokens() const { return header + trailer; }
};

// `embeddings`: [header + trailer, hidden], at least one row.
Wrapper MakeWrapper(int64_t header, int64_t trailer, std::vector<float> embeddings);
// The profile's wrapper; one without tokens if it has none. Errors of link::ReadEmbeddings. INVALID_ARGUMENT: it leaves
// no room for a document in the model's context.
absl::StatusOr<Wrapper> LoadWrapper(const link::LinkProfile& profile, const model::ModelConfig& config);

// A context digest for people: hexadecimal, or "none" if it is empty.
std::string WrapperName(absl::string_view digest);

}  // namespace kvlink::encode

#endif  // KVLINK_WORKER_ENCODE_WRAPPER_H_
