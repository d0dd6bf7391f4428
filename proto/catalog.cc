#include "proto/catalog.h"

#include <cstring>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/envelope.h"
#include "proto/kv.pb.h"
#include "proto/wire.h"

namespace kvlink {
namespace {

using internal::CopyDigest;

// "KVLC"
constexpr EnvelopeKind kCatalogKind{0x434C564B, 2, 0, "catalog entry", 2};
constexpr int64_t kMaxPayload = int64_t{128} << 20;
constexpr int64_t kMaxParts = 4096;
constexpr int64_t kMaxTokens = int64_t{1} << 24;  // per part, as in SlabShape
constexpr size_t kContextDigestBytes = 32;

absl::Status BadEntry(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("catalog entry: ", what));
}

// The part of an entry that callers determine. The write time is set by the store and not compared.
std::string ContentOf(CatalogEntry entry, uint64_t generation) {
  entry.generation = generation;
  entry.written_at_us = 0;
  return SerializeCatalogEntry(entry);
}

}  // namespace

std::string SerializeCatalogEntry(const CatalogEntry& entry) {
  proto::CatalogEntry message;
  message.set_generation(entry.generation);
  message.set_tombstone(entry.tombstone);
  message.set_model(entry.model.bytes.data(), entry.model.bytes.size());
  message.set_title(entry.title);
  for (const CatalogPart& part : entry.parts) {
    proto::CatalogPart* out = message.add_parts();
    out->set_identity(part.identity.bytes.data(), part.identity.bytes.size());
    out->mutable_tokens()->Add(part.tokens.begin(), part.tokens.end());
    out->set_begin(part.begin);
    out->set_end(part.end);
  }
  message.set_written_at_us(entry.written_at_us);
  if (!entry.content.empty()) message.set_content(entry.content.bytes.data(), entry.content.bytes.size());
  message.set_context_digest(entry.context_digest);
  return WrapEnvelope(kCatalogKind, message.SerializeAsString());
}

absl::StatusOr<CatalogEntry> ParseCatalogEntry(absl::string_view bytes) {
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view payload, OpenEnvelope(kCatalogKind, bytes));
  if (static_cast<int64_t>(payload.size()) > kMaxPayload) return BadEntry("too large");
  KVLINK_RETURN_IF_ERROR(internal::CheckFieldBound("catalog entry", payload, {5, kMaxParts, kMaxPayload}));
  proto::CatalogEntry message;
  if (!message.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) return BadEntry("malformed");

  CatalogEntry entry;
  entry.generation = message.generation();
  entry.tombstone = message.tombstone();
  if (!CopyDigest(message.model(), entry.model)) return BadEntry("the model fingerprint has the wrong length");
  entry.title = message.title();
  entry.written_at_us = message.written_at_us();
  if (!message.content().empty() && !CopyDigest(message.content(), entry.content)) {
    return BadEntry("the content digest has the wrong length");
  }
  entry.context_digest = message.context_digest();
  if (!entry.context_digest.empty() && entry.context_digest.size() != kContextDigestBytes) {
    return BadEntry("the context digest has the wrong length");
  }
  entry.parts.reserve(message.parts_size());
  for (const proto::CatalogPart& part : message.parts()) {
    CatalogPart out;
    if (!CopyDigest(part.identity(), out.identity)) return BadEntry("an identity has the wrong length");
    if (part.tokens_size() > kMaxTokens) return BadEntry("a part has too many tokens");
    out.tokens.assign(part.tokens().begin(), part.tokens().end());
    if (part.begin() > part.end()) return BadEntry("a part ends before it begins");
    out.begin = part.begin();
    out.end = part.end();
    entry.parts.push_back(std::move(out));
  }
  return entry;
}

absl::StatusOr<bool> TakesPlace(const CatalogEntry& there, const CatalogEntry& entry) {
  const bool gives_generation = entry.generation == 0;
  const uint64_t generation = gives_generation ? there.generation : entry.generation;
  bool refused = there.generation > generation;
  if (there.generation == generation) {
    const std::string content = ContentOf(entry, generation), content_there = ContentOf(there, generation);
    if (content == content_there) return false;
    refused = gives_generation ? generation == UINT64_MAX
                               : std::tie(there.tombstone, content_there) > std::tie(entry.tombstone, content);
  }
  if (!refused) return true;
  return absl::FailedPreconditionError(absl::StrCat("generation ", generation,
                                                    " does not replace the stored generation ", there.generation,
                                                    there.tombstone ? " (deleted)" : ""));
}

}  // namespace kvlink
