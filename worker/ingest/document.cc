// Prepares a document and compares it with its catalog entry.
#include "worker/ingest/document.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::ingest {
namespace {

// Limits of a catalog entry (docs/formats.md); a token takes at most 5 bytes.
constexpr int64_t kMaxParts = 4096;
constexpr int64_t kMaxTokenBytes = 5;

absl::Status CheckSize(const Document& document) {
  if (static_cast<int64_t>(document.parts.size()) > kMaxParts) {
    return absl::InvalidArgumentError(absl::StrCat("the document has ", document.parts.size(), " parts, more than ",
                                                   kMaxParts, "; raise --chunk-tokens, or split it"));
  }
  if (kMaxTokenBytes * document.tokens < kMaxEntryBytes / 2) return absl::OkStatus();
  CatalogEntry entry;
  entry.title = document.title;
  entry.parts = document.parts;
  // Generation, content and times take less than that.
  const int64_t bytes = static_cast<int64_t>(SerializeCatalogEntry(entry).size()) + 256;
  if (bytes <= kMaxEntryBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the document has ", document.tokens,
                                                 " tokens, more than one catalog entry holds (4 MiB); split it"));
}

}  // namespace

absl::Status CheckText(absl::string_view text) {
  const bool blank = std::all_of(text.begin(), text.end(), [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); });
  return blank ? absl::InvalidArgumentError("the document is empty; remove it or give it text") : absl::OkStatus();
}

absl::StatusOr<Document> Prepare(const model::Tokenizer& tokenizer, const link::LinkProfile& profile,
                                 const ChunkLimits& limits, const encode::Encoder& encoder, const ReadDocument& read) {
  const SourceItem& item = read.item;
  KVLINK_ASSIGN_OR_RETURN(std::vector<Chunk> chunks, CutDocument(tokenizer, profile, limits, item.title, item.text));
  Document document;
  for (Chunk& chunk : chunks) {
    document.tokens += static_cast<int64_t>(chunk.tokens.size());
    const Identity identity = encoder.IdentityOf(chunk.tokens);
    document.parts.push_back({identity, std::move(chunk.tokens), chunk.begin, chunk.end});
  }
  document.title = item.title;
  KVLINK_RETURN_IF_ERROR(CheckSize(document));
  document.where = item.where;
  document.position = item.position;
  document.id = item.id;
  document.content = read.content;
  return document;
}

CatalogEntry EntryOf(const Document& document, const Fingerprint& model, uint64_t generation,
                     absl::string_view context_digest) {
  CatalogEntry entry;
  entry.generation = generation;
  entry.model = model;
  entry.title = document.title;
  entry.parts = document.parts;
  entry.content = document.content;
  entry.context_digest = std::string(context_digest);
  return entry;
}

bool SaysTheSame(const CatalogEntry& entry, const Fingerprint& model, const Document& document) {
  return entry.model == model && entry.title == document.title &&
         std::equal(entry.parts.begin(), entry.parts.end(), document.parts.begin(), document.parts.end(),
                    [](const CatalogPart& a, const CatalogPart& b) { return a.identity == b.identity; });
}

// The content digest alone decides; the other fields are compared because that costs nothing.
bool IsUnchanged(const CatalogEntry& entry, const Fingerprint& model, const ReadDocument& read) {
  return entry.content == read.content && entry.model == model && entry.title == read.item.title &&
         !entry.parts.empty();
}

}  // namespace kvlink::ingest
