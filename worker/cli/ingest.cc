// kvlink ingest: writes documents into the store. ^C stops reading; documents in progress are finished and counted.
#include "worker/ingest/ingest.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/args.h"
#include "base/cli/json.h"
#include "base/cli/progress.h"
#include "base/cli/standard_streams.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/cli/place.h"
#include "worker/cli/commands.h"
#include "worker/cli/interrupt.h"
#include "worker/cli/open.h"
#include "worker/encode/encoder.h"
#include "worker/ingest/chunk.h"
#include "worker/ingest/prune.h"
#include "worker/ingest/rejects.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kIngestSummary =
    "Encodes documents once and keeps their keys and values in the store. INPUT is a JSON lines file\n"
    "({\"id\": ..., \"title\": ..., \"text\": ...}), a text file, a directory of these, or - for JSON lines on\n"
    "standard input. Files may be compressed with gzip or Zstandard.\n\n"
    "Documents that are already complete are skipped, so a run may be stopped at any time (^C finishes\n"
    "the work in progress) and started again. The exit status is 1 if any document failed (each is named\n"
    "on standard error), and 7 if the store had no room for all encodings.\n\n"
    "A document longer than the model's context, or than --chunk-tokens, is cut into parts at the ends\n"
    "of paragraphs, or else of sentences. Each part is encoded on its own (see kvlink ask --parts).\n\n"
    "With --shard I/N, N processes share a corpus: each document belongs to exactly one shard, by the\n"
    "hash of its id. In an indexed Kubernetes job, --shards N takes I from JOB_COMPLETION_INDEX.\n\n"
    "With --prune, documents of the namespace that are no longer in INPUT are deleted at the end. This\n"
    "applies to the WHOLE namespace, or with --prefix P only to ids that begin with P; all ids in INPUT\n"
    "must then begin with P. Nothing is deleted if any of the input could not be read.\n\n"
    "With a --profile that has a wrapper, documents are encoded inside it, for the linker packet of\n"
    "kvlink ask. Documents encoded otherwise before are encoded again.\n\n"
    "With --secret-file, encodings are named by HMAC-SHA256 with the secret in FILE (a trailing newline\n"
    "is ignored), so that kvlink ask finds them only with the same secret. Nothing is encrypted: whoever\n"
    "can read the files of the store can read their contents.";

struct IngestFlags {
  StoreFlags store;
  ModelFlags model;
  std::string format = "auto";
  std::string id;
  std::string title;
  int64_t generation = 0;
  int64_t batch_tokens = 2048;
  int64_t chunk_tokens = 0;
  int64_t document_bytes = int64_t{16} << 20;
  int64_t outage = 60;
  std::string shard_text;
  int64_t shards = 0;
  ingest::Shard shard;
  std::string prefix;
  bool prune = false;
  double prune_limit = 10;
  std::string rejects;
  bool stop_at_first_failure = false;
  bool quiet = false;
  bool json = false;

  bool words() const { return !quiet && !json; }  // on standard output
};

absl::Status TakeShard(const Arguments& arguments, IngestFlags& flags) {
  if (arguments.given("shard") && arguments.given("shards")) {
    return absl::InvalidArgumentError("--shard and --shards cannot be combined");
  }
  if (arguments.given("shard")) {
    KVLINK_ASSIGN_OR_RETURN(flags.shard, ingest::ParseShard(flags.shard_text));
  } else if (arguments.given("shards")) {
    KVLINK_ASSIGN_OR_RETURN(flags.shard, ingest::ShardOfJob(flags.shards, std::getenv("JOB_COMPLETION_INDEX")));
  }
  return absl::OkStatus();
}

absl::Status Parse(absl::Span<char* const> args, Arguments& arguments, IngestFlags& flags) {
  AddStoreFlags(arguments, flags.store);
  AddModelFlags(arguments, flags.model);
  arguments.Choice("format", {"auto", "jsonl", "text"},
                   "Format of the inputs. auto: .jsonl and .ndjson are JSON lines, .json and .csv are refused, other "
                   "files are text.",
                   &flags.format);
  arguments.Text("id", "ID", "Id of the document, if INPUT is a single text.", &flags.id);
  arguments.Text("title", "TITLE", "Title of the document, if INPUT is a single text.", &flags.title);
  arguments.Integer("generation", "N",
                    "Version of the catalog entries; a lower one never replaces a higher one. 0: the store's current "
                    "time in microseconds.",
                    0, INT64_MAX, &flags.generation);
  arguments.Integer("batch-tokens", "N", "Maximum number of tokens in a forward pass.", 1, 1 << 20,
                    &flags.batch_tokens);
  arguments.Integer("chunk-tokens", "N",
                    "Cut documents into parts of at most N tokens. 0: only documents longer than the model's context, "
                    "into parts of half the context.",
                    0, 1 << 24, &flags.chunk_tokens);
  arguments.Bytes("document-bytes", "Maximum size of a document.", &flags.document_bytes);
  arguments.Integer("outage", "SECONDS", "How long to wait for a node that has become unreachable.", 0, 86400,
                    &flags.outage);
  arguments.Text("shard", "I/N", "Ingest shard I of N, counted from 0.", &flags.shard_text);
  arguments.Integer("shards", "N", "Like --shard, with I from $JOB_COMPLETION_INDEX.", 1, ingest::kMaxShards,
                    &flags.shards);
  arguments.Text("prefix", "P", "Refuse documents whose id does not begin with P.", &flags.prefix);
  arguments.Flag("prune", "Delete documents that are no longer in INPUT, from the whole namespace or within --prefix.",
                 &flags.prune);
  arguments.Real("prune-limit", "PERCENT",
                 "With --prune: delete nothing if this would delete more than PERCENT of the documents.", 0, 100,
                 &flags.prune_limit);
  arguments.Text(
      "rejects", "FILE",
      "Write failed documents to FILE as JSON lines with position and reason, to be corrected and ingested again.",
      &flags.rejects);
  arguments.Flag("stop-at-first-failure", "Stop at the first document that fails.", &flags.stop_at_first_failure);
  arguments.Flag("quiet", "Print only failures.", &flags.quiet);
  AddJsonFlag(arguments, &flags.json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (flags.document_bytes < 1 || flags.document_bytes > (int64_t{1} << 30)) {
    return absl::InvalidArgumentError("option --document-bytes: must be between 1 and 1G");
  }
  if (arguments.given("prune-limit") && !flags.prune) {
    return absl::InvalidArgumentError("--prune-limit requires --prune");
  }
  return TakeShard(arguments, flags);
}

absl::StatusOr<std::unique_ptr<ingest::DocumentSource>> OpenSource(const Arguments& arguments,
                                                                   const IngestFlags& flags) {
  using Format = ingest::SourceOptions::Format;
  ingest::SourceOptions options;
  options.format = flags.format == "jsonl"  ? Format::kJsonLines
                   : flags.format == "text" ? Format::kText
                                            : Format::kAuto;
  options.id = flags.id;
  options.title = flags.title;
  options.max_document_bytes = flags.document_bytes;
  options.shard = flags.shard;
  return ingest::DocumentSource::Open(arguments.operands(), options, &SignalInterrupt());
}

// The file of rejects lacks some of what failed (lines that are not JSON, texts that could not be written), so it must
// not replace an input.
absl::Status CheckNoInput(const std::string& rejects, absl::Span<const std::string> inputs) {
  namespace fs = std::filesystem;
  std::error_code error;
  for (const std::string& name : {rejects, ingest::PartialOf(rejects)}) {
    const fs::path file = fs::weakly_canonical(name, error);
    for (const std::string& input : inputs) {
      const fs::path there = fs::weakly_canonical(input, error);
      const bool within = std::mismatch(there.begin(), there.end(), file.begin(), file.end()).first == there.end();
      if (!within && !fs::equivalent(name, input, error)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("--rejects ", rejects, ": ", name, " is an input, or lies in one; name a file elsewhere"));
    }
  }
  return absl::OkStatus();
}

// Prints "a.jsonl:3: document 'x': ..." as one line on standard error.
void PrintFailure(const ingest::Failure& failure) {
  const std::string place = failure.id.empty()
                                ? std::string(failure.where)
                                : absl::StrCat(failure.where, ": document '", failure.id.substr(0, 200), "'");
  std::fprintf(stderr, "kvlink ingest: %s\n", OneLine(place, failure.status.message()).c_str());
}

int64_t Unfinished(const ingest::IngestCounts& counts) {
  return counts.documents - counts.added - counts.skipped - counts.failed;
}

nlohmann::json ToJson(const ingest::IngestCounts& counts, absl::Duration elapsed, const ingest::DocumentSource& source,
                      std::optional<int64_t> pruned) {
  nlohmann::json json = {{"documents", counts.documents},
                         {"added", counts.added},
                         {"replaced", counts.replaced},
                         {"complete_already", counts.skipped},
                         {"failed", counts.failed},
                         {"unfinished", Unfinished(counts)},
                         {"shared_encodings", counts.shared},
                         {"cut", counts.cut},
                         {"encodings", counts.encodings},
                         {"encodings_evicted", counts.evicted},
                         {"encodings_gone", counts.deleted},
                         {"tokens", counts.tokens},
                         {"bytes_written", counts.bytes},
                         {"seconds", absl::ToDoubleSeconds(elapsed)},
                         {"ignored_files", source.ignored_files()},
                         {"shard", source.shard().index},
                         {"shards", source.shard().count}};
  if (pruned.has_value()) json["pruned"] = *pruned;
  return json;
}

void PrintSummary(const ingest::IngestCounts& counts, absl::Duration elapsed, const ingest::DocumentSource& source) {
  const double seconds = std::max(1e-3, absl::ToDoubleSeconds(elapsed));
  const int64_t unfinished = Unfinished(counts);
  if (source.shard().count > 1) absl::PrintF("shard %d/%d: ", source.shard().index, source.shard().count);
  absl::PrintF("%d documents: %d added, %d already complete, %d failed", counts.documents, counts.added, counts.skipped,
               counts.failed);
  if (unfinished > 0) absl::PrintF(", %d unfinished", unfinished);
  absl::PrintF("; %d shared an encoding", counts.shared);
  if (counts.cut > 0) absl::PrintF(", %d cut into parts", counts.cut);
  if (counts.replaced > 0) absl::PrintF(", %d replaced an earlier version", counts.replaced);
  absl::PrintF("\n%d tokens encoded in %.1f s (%.0f tokens/s), %d encodings, %s written\n", counts.tokens, seconds,
               static_cast<double>(counts.tokens) / seconds, counts.encodings,
               FormatBytes(static_cast<double>(counts.bytes)));
  if (source.ignored_files() > 0) {
    absl::PrintF("%d other files skipped (not .txt, .md, .jsonl or .ndjson)\n", source.ignored_files());
  }
}

// The command's status after the run.
absl::Status Outcome(const absl::Status& run, const ingest::IngestCounts& counts, const IngestFlags& flags,
                     bool served) {
  const int64_t complete = counts.added + counts.skipped;
  if (!run.ok()) {
    return Annotate(
        absl::Status(run.code(), absl::StrCat(run.message(), "; ", complete,
                                              " documents are complete, run the command again to continue")),
        PlaceName(flags.store));
  }
  if (Interrupted()) {
    return absl::CancelledError(
        absl::StrCat("interrupted; ", complete, " documents are complete, run the command again to continue"));
  }
  if (counts.evicted > 0) {
    const std::string capacity =
        served
            ? "more than its nodes have room for; raise their --capacity, or the namespace's limit (kvlink namespace)"
        : flags.store.capacity == 0
            ? "more than the store's capacity or its disk allows; raise --capacity, or free disk space"
            : absl::StrCat("the capacity is ", FormatBytes(static_cast<double>(flags.store.capacity)),
                           "; raise --capacity, or free disk space");
    return absl::ResourceExhaustedError(
        absl::StrCat(counts.evicted, " encodings were evicted during the run: the corpus needs ",
                     FormatBytes(static_cast<double>(counts.corpus_bytes)), ", ", capacity));
  }
  if (counts.deleted > 0) {
    return absl::AbortedError(absl::StrCat(
        counts.deleted, " encodings are gone again: documents of the same text were deleted meanwhile, or ",
        "the disk has damaged them; run it again, which encodes them again"));
  }
  if (counts.failed == 0) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat(counts.failed, " of ", counts.documents,
                                         " documents failed; correct them and run the command again"));
}

// How many documents were deleted.
absl::StatusOr<int64_t> Prune(store::Store* store, const ingest::DocumentSource& source,
                              const ingest::IngestCounts& counts, ingest::SeenIds* seen, const IngestFlags& flags) {
  ingest::PruneOptions options;
  options.ns = flags.store.ns;
  options.prefix = flags.prefix;
  options.limit_percent = flags.prune_limit;
  options.outage = absl::Seconds(flags.outage);
  return ingest::Prune(store, source, counts, seen, options);
}

}  // namespace

absl::Status RunIngest(absl::Span<char* const> args) {
  IngestFlags flags;
  Arguments arguments("ingest", "INPUT...", kIngestSummary);
  KVLINK_RETURN_IF_ERROR(Parse(args, arguments, flags));
  if (arguments.help_wanted()) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(const auto source, OpenSource(arguments, flags));
  encode::EncoderOptions encoder_options;
  KVLINK_ASSIGN_OR_RETURN(encoder_options.codec, ParseCodec(flags.store.codec));
  encoder_options.batch_tokens = flags.batch_tokens;
  KVLINK_ASSIGN_OR_RETURN(encoder_options.tenant_secret, TenantSecret(arguments, flags.store));
  KVLINK_ASSIGN_OR_RETURN(const PlaceKind kind, PlaceOf(flags.store));
  KVLINK_ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(flags.model));
  encoder_options.wrapper = opened.wrapper;
  const int64_t context = opened.model->config().context - opened.wrapper.tokens();
  // Refuse what can be refused before creating a store.
  KVLINK_RETURN_IF_ERROR(ingest::ChunkLimitsOf(flags.chunk_tokens, context).status());
  std::unique_ptr<ingest::RejectFile> rejects;
  if (!flags.rejects.empty()) {
    KVLINK_RETURN_IF_ERROR(CheckNoInput(flags.rejects, arguments.operands()));
    KVLINK_ASSIGN_OR_RETURN(rejects, ingest::RejectFile::Create(flags.rejects));
  }
  KVLINK_ASSIGN_OR_RETURN(const OpenedStore place, OpenStore(flags.store, StoreUse::kCreate));
  if (place.created && flags.words()) absl::PrintF("created a new store in %s\n", Printable(flags.store.store));
  KVLINK_ASSIGN_OR_RETURN(const auto encoder,
                          encode::Encoder::Create(opened.model.get(), opened.fingerprint, encoder_options));

  ingest::SeenIds seen;
  const ingest::IngestInput input{.source = source.get(),
                                  .tokenizer = opened.tokenizer.get(),
                                  .profile = &opened.profile,
                                  .context = context,
                                  .fingerprint = opened.fingerprint,
                                  .encoder = encoder.get(),
                                  .store = place.store.get(),
                                  .seen = flags.prune ? &seen : nullptr};
  ingest::IngestOptions options;
  options.ns = flags.store.ns;
  options.generation = static_cast<uint64_t>(flags.generation);
  options.chunk_tokens = flags.chunk_tokens;
  options.prefix = flags.prefix;
  options.stop_at_first_failure = flags.stop_at_first_failure;
  options.outage = absl::Seconds(flags.outage);
  ProgressBar bar;
  ingest::IngestCallbacks callbacks;
  int64_t named = 0;
  callbacks.failed = [&](const ingest::Failure& failure) -> absl::Status {
    constexpr int64_t kMaxNamed = 1000;
    if (rejects != nullptr) KVLINK_RETURN_IF_ERROR(rejects->Add(failure));
    if (++named > kMaxNamed) return absl::OkStatus();
    bar.Clear();
    PrintFailure(failure);
    if (named == kMaxNamed) std::fprintf(stderr, "kvlink ingest: further failures are counted, not listed\n");
    return absl::OkStatus();
  };
  callbacks.progress = [&](const ingest::IngestCounts& counts) {
    const double total = static_cast<double>(source->total_bytes());
    const double seconds = std::max(1e-3, absl::ToDoubleSeconds(bar.elapsed()));
    if (flags.quiet) return;
    bar.Update(total > 0 ? static_cast<double>(counts.position) / total : -1,
               absl::StrFormat("%d documents  %.0f tokens/s", counts.added + counts.skipped,
                               static_cast<double>(counts.tokens) / seconds));
  };
  ingest::IngestCounts counts;
  absl::Status status;
  {
    const CatchInterrupt caught;
    status = ingest::Ingest(input, options, callbacks, &counts);
  }
  bar.Clear();
  // A run that ended early leaves them beside FILE, since an older FILE may hold what the run has not reached.
  absl::Status rejected;
  if (rejects != nullptr && status.ok() && !Interrupted()) rejected = rejects->Finish();
  const absl::Duration elapsed = bar.elapsed();
  if (flags.words()) PrintSummary(counts, elapsed, *source);
  std::optional<int64_t> deleted;
  absl::Status pruned;
  if (flags.prune && status.ok() && !Interrupted()) {
    const auto outcome = Prune(place.store.get(), *source, counts, &seen, flags);
    pruned = outcome.status();
    if (outcome.ok()) deleted = *outcome;
  }
  if (flags.json) PrintJson(ToJson(counts, elapsed, *source, deleted));
  if (flags.words() && deleted.has_value()) {
    absl::PrintF("%d documents that are no longer in the source were deleted\n", *deleted);
  }
  const absl::Status outcome = Outcome(status, counts, flags, kind != PlaceKind::kDirectory);
  // Other errors take precedence over failed documents.
  if (!outcome.ok() && !absl::IsAborted(outcome)) return outcome;
  return !pruned.ok() ? pruned : !rejected.ok() ? rejected : outcome;
}

}  // namespace kvlink::cli
