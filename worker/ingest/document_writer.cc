// The steps of ingest.cc for one document, one after another. Its generation is the store's time at the beginning, so
// that of two writers of a document the one that began later wins, whichever ends first.
#include "worker/ingest/document_writer.h"

#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "worker/ingest/document.h"

namespace kvlink::ingest {
namespace {

// How often a call that waits for its turn asks whether it is cancelled.
constexpr absl::Duration kAskEvery = absl::Milliseconds(50);

absl::Status Check(const DocumentWriter::Limits& limits) {
  if (limits.cancelled && limits.cancelled()) return absl::CancelledError("the document was given up");
  if (SteadyNow() < limits.deadline) return absl::OkStatus();
  return absl::DeadlineExceededError("encoding the document takes too long; what is encoded stays, so repeat it");
}

std::vector<Identity> IdentitiesOf(const std::vector<CatalogPart>& parts) {
  std::vector<Identity> identities;
  for (const CatalogPart& part : parts) identities.push_back(part.identity);
  return identities;
}

}  // namespace

DocumentWriter::DocumentWriter(const WriterInput& input)
    : input_(input), digester_(input.encoder->IdentityOf({}), *input.tokenizer, *input.profile, input.limits) {}

absl::StatusOr<DocumentWriter::Written> DocumentWriter::Write(const std::string& id, const std::string& title,
                                                              const std::string& text, const Limits& limits) {
  KVLINK_RETURN_IF_ERROR(store::ValidateName("document id", id));
  KVLINK_RETURN_IF_ERROR(CheckText(text));
  ReadDocument read{.item = {.id = id, .title = title, .text = text}, .content = digester_.Of(title, text)};
  KVLINK_ASSIGN_OR_RETURN(const uint64_t generation, input_.store->Clock());
  const auto there = input_.store->GetDocument(input_.ns, id);
  if (!there.ok() && !absl::IsNotFound(there.status()) && !absl::IsDataLoss(there.status())) return there.status();
  Written written{.created = absl::IsNotFound(there.status())};
  if (there.ok() && IsUnchanged(*there, input_.fingerprint, read)) {
    KVLINK_ASSIGN_OR_RETURN(written.unchanged, HasEncodings(*there));
    written.generation = there->generation;
    written.parts = static_cast<int64_t>(there->parts.size());
    for (const CatalogPart& part : there->parts) written.tokens += static_cast<int64_t>(part.tokens.size());
    if (written.unchanged) return written;
  }
  KVLINK_RETURN_IF_ERROR(Check(limits));
  KVLINK_ASSIGN_OR_RETURN(const Document document,
                          Prepare(*input_.tokenizer, *input_.profile, input_.limits, *input_.encoder, read));
  KVLINK_ASSIGN_OR_RETURN(written.encoded, StoreParts(document, limits));
  const CatalogEntry entry =
      EntryOf(document, input_.fingerprint, generation, input_.encoder->options().wrapper.digest);
  KVLINK_RETURN_IF_ERROR(input_.store->PutDocument(input_.ns, id, entry));
  written.generation = generation;
  written.parts = static_cast<int64_t>(document.parts.size());
  written.tokens = document.tokens;
  return written;
}

absl::StatusOr<bool> DocumentWriter::HasEncodings(const CatalogEntry& entry) {
  KVLINK_ASSIGN_OR_RETURN(const auto found,
                          input_.store->Lookup(input_.ns, IdentitiesOf(entry.parts), input_.encoder->options().codec));
  for (const store::Found& one : found) {
    if (!one.present) return false;
  }
  return true;
}

absl::StatusOr<int64_t> DocumentWriter::StoreParts(const Document& document, const Limits& limits) {
  const encode::EncoderOptions& options = input_.encoder->options();
  KVLINK_ASSIGN_OR_RETURN(const auto found,
                          input_.store->Lookup(input_.ns, IdentitiesOf(document.parts), options.codec));
  std::vector<absl::Span<const int32_t>> missing;
  for (size_t i = 0; i < document.parts.size(); ++i) {
    if (!found[i].present) missing.push_back(document.parts[i].tokens);
  }
  for (size_t next = 0; next < missing.size();) {
    // As many as one pass takes.
    std::vector<absl::Span<const int32_t>> group;
    for (int64_t tokens = 0; next < missing.size() && (group.empty() || tokens < options.batch_tokens); ++next) {
      group.push_back(missing[next]);
      tokens += static_cast<int64_t>(missing[next].size()) + options.wrapper.tokens();
    }
    KVLINK_ASSIGN_OR_RETURN(const std::vector<encode::Encoded> encoded, Encode(group, limits));
    for (const encode::Encoded& one : encoded) {
      KVLINK_RETURN_IF_ERROR(Check(limits));
      KVLINK_RETURN_IF_ERROR(input_.store->Put(input_.ns, one.manifest, one.slabs, limits.deadline).status());
    }
  }
  return static_cast<int64_t>(missing.size());
}

absl::StatusOr<std::vector<encode::Encoded>> DocumentWriter::Encode(absl::Span<const absl::Span<const int32_t>> group,
                                                                    const Limits& limits) {
  ReleasableMutexLock lock(&mutex_);
  const auto turn = turns_.emplace(turns_.end());
  absl::Status status = Check(limits);
  while (status.ok() && turn != turns_.begin()) {
    changed_.WaitUntil(&mutex_, SteadyNow() + kAskEvery);
    lock.Release();  // the caller's code must not run under the lock
    status = Check(limits);
    lock.Reacquire();
  }
  std::vector<encode::Encoded> encoded;
  if (status.ok()) {
    lock.Release();
    auto made = input_.encoder->Encode(group, [&limits] { return Check(limits); });
    status = made.status();
    if (made.ok()) encoded = *std::move(made);
    lock.Reacquire();
  }
  turns_.erase(turn);
  changed_.SignalAll();
  KVLINK_RETURN_IF_ERROR(status);
  return encoded;
}

}  // namespace kvlink::ingest
