// Turns documents into encodings: fingerprint of the model, identity of the tokens, one forward pass over many
// documents, packing into slabs, manifest. Ingest uses it in bulk; infer uses it for documents the store lacks.
// Thread-safety: one thread at a time for an Encoder; any thread for FingerprintOf and identities.
#ifndef KVLINK_WORKER_ENCODE_ENCODER_H_
#define KVLINK_WORKER_ENCODE_ENCODER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/digest.h"
#include "proto/manifest.h"
#include "worker/encode/wrapper.h"
#include "worker/files/weights.h"
#include "worker/model/model.h"

namespace kvlink::encode {

// SHA-256 over canonical configuration and source tensors (name, type, shape, bytes) in name order, cached beside the
// model (docs/formats.md "Fingerprint cache") by (inode, size, mtime) of its files. A cache that cannot be written is
// not an error.
absl::StatusOr<Fingerprint> FingerprintOf(const model::Weights& weights, bool use_cache);

struct Encoded {
  Manifest manifest;      // sealed
  kernels::Buffer bytes;  // on the host, even if computed on a device
  // [layers] views into `bytes`, each on a 4096-byte boundary: the store writes them to disk from there.
  std::vector<absl::Span<const std::byte>> slabs;
};

struct EncoderOptions {
  Codec codec = Codec::kRawBf16;
  int64_t batch_tokens = 2048;  // rows of one forward pass; longer documents take several, without loss of exactness
  std::string tenant_secret;    // empty: plain SHA-256 identities
  Wrapper wrapper;              // documents are encoded inside it; default: as they are
};

class Encoder {
 public:
  // INVALID_ARGUMENT: options out of range, a wrapper that does not fit the model. RESOURCE_EXHAUSTED when the private
  // KV for one batch, or a device's pinned memory, cannot be allocated.
  static absl::StatusOr<std::unique_ptr<Encoder>> Create(const model::Model* model, const Fingerprint& fingerprint,
                                                         const EncoderOptions& options);
  virtual ~Encoder() = default;
  virtual const EncoderOptions& options() const = 0;
  // Of a document's own tokens, inside the options' wrapper.
  virtual Identity IdentityOf(absl::Span<const int32_t> tokens) const = 0;
  // Encodes each document alone (causal within itself and its wrapper, positions from 0), in as few forward passes as
  // possible. An encoding has the wrapper's tokens around those of its document. Results are in the order of the
  // documents. On the host the bits do not depend on the other documents of the call; a device may sum in another
  // order. INVALID_ARGUMENT: a document that is empty, has a token outside the vocabulary, or is longer than the
  // context allows, by index. RESOURCE_EXHAUSTED: no memory.
  // `check` (may be empty) is asked before every layer of a pass: its error ends the call.
  using Check = std::function<absl::Status()>;
  virtual absl::StatusOr<std::vector<Encoded>> Encode(absl::Span<const absl::Span<const int32_t>> documents,
                                                      const Check& check) = 0;
  absl::StatusOr<std::vector<Encoded>> Encode(absl::Span<const absl::Span<const int32_t>> documents) {
    return Encode(documents, nullptr);
  }
};

}  // namespace kvlink::encode

#endif  // KVLINK_WORKER_ENCODE_ENCODER_H_
