// kvlink ingest: documents into the store.
#include "worker/ingest/ingest.h"

#include <cstdio>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/cli/args.h"
#include "base/cli/progress.h"
#include "base/status.h"
#include "store/cli/place.h"
#include "worker/cli/commands.h"
#include "worker/cli/open.h"
#include "worker/encode/encoder.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kSummary =
    "Encodes documents once and keeps their keys and values in the store. INPUT is a JSON lines file\n"
    "({\"id\": ..., \"title\": ..., \"text\": ...}), a text file, a directory of these, or - for JSON lines\n"
    "on standard input; gzip and Zstandard are read as they are.\n\n"
    "Documents that are complete already are skipped: end it at any time and run it again. The status\n"
    "is 1 if any document failed; each is named on standard error.\n\n"
    "With --secret-file encodings are named by HMAC-SHA256 under the secret in FILE (one newline at its\n"
    "end does not count), so that kvlink ask finds them under that secret only. Nothing is encrypted:\n"
    "whoever may read the files of the store can read what is in it.";

struct Flags {
  StoreFlags store;
  ModelFlags model;
  std::string format = "auto";
  std::string id;
  std::string title;
  int64_t generation = 0;
  int64_t batch_tokens = 2048;
  int64_t document_bytes = int64_t{16} << 20;
  bool quiet = false;
};

absl::Status Parse(absl::Span<char* const> args, Arguments& arguments, Flags& flags) {
  AddStoreFlags(arguments, flags.store);
  AddModelFlags(arguments, flags.model);
  arguments.Choice("format", {"auto", "jsonl", "text"},
                   "What the inputs are; auto: .jsonl and .ndjson are JSON lines, others text.", &flags.format);
  arguments.Text("id", "ID", "Id of the document, for one text.", &flags.id);
  arguments.Text("title", "TITLE", "Title of the document, for one text.", &flags.title);
  arguments.Integer(
      "generation", "N",
      "Version of the catalog entries; a lower one never replaces a higher. 0: the time now in microseconds.", 0,
      INT64_MAX, &flags.generation);
  arguments.Integer("batch-tokens", "N", "Most tokens of one forward pass.", 1, 1 << 20, &flags.batch_tokens);
  arguments.Bytes("document-bytes", "Most bytes of one document.", &flags.document_bytes);
  arguments.Flag("quiet", "Print failures only.", &flags.quiet);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (flags.document_bytes < 1 || flags.document_bytes > (int64_t{1} << 30)) {
    return absl::InvalidArgumentError("option --document-bytes: between 1 and 1G");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ingest::DocumentSource>> OpenSource(const Arguments& arguments, const Flags& flags) {
  using Format = ingest::SourceOptions::Format;
  ingest::SourceOptions options;
  options.format = flags.format == "jsonl"  ? Format::kJsonLines
                   : flags.format == "text" ? Format::kText
                                            : Format::kAuto;
  options.id = flags.id;
  options.title = flags.title;
  options.max_document_bytes = flags.document_bytes;
  return ingest::DocumentSource::Open(arguments.operands(), options);
}

// "a.jsonl:3: document 'x': ..." on one line of standard error.
void PrintFailure(absl::string_view where, absl::string_view id, const absl::Status& status) {
  std::string line(where);
  if (!id.empty()) absl::StrAppend(&line, ": document '", absl::Utf8SafeCEscape(id.substr(0, 200)), "'");
  absl::StrAppend(&line, ": ", absl::StrReplaceAll(status.message(), {{"\n", " "}, {"\r", " "}}));
  std::fprintf(stderr, "kvlink ingest: %s\n", line.c_str());
}

void PrintSummary(const ingest::IngestCounts& counts, absl::Duration elapsed) {
  const double seconds = std::max(1e-3, absl::ToDoubleSeconds(elapsed));
  absl::PrintF("%d documents: %d added, %d complete already, %d failed; %d shared an encoding\n", counts.documents,
               counts.added, counts.skipped, counts.failed, counts.shared);
  absl::PrintF("%d tokens encoded in %.1f s (%.0f tokens/s), %s written\n", counts.tokens, seconds,
               static_cast<double>(counts.tokens) / seconds, FormatBytes(static_cast<double>(counts.bytes)));
}

}  // namespace

absl::Status RunIngest(absl::Span<char* const> args) {
  Flags flags;
  Arguments arguments("ingest", "INPUT...", kSummary);
  KVLINK_RETURN_IF_ERROR(Parse(args, arguments, flags));
  if (arguments.help_wanted()) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(const auto source, OpenSource(arguments, flags));
  KVLINK_ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(flags.model));
  KVLINK_ASSIGN_OR_RETURN(const auto store, OpenStore(flags.store, StoreUse::kCreate));
  encode::EncoderOptions encoder_options;
  KVLINK_ASSIGN_OR_RETURN(encoder_options.codec, ParseCodec(flags.store.codec));
  encoder_options.batch_tokens = flags.batch_tokens;
  KVLINK_ASSIGN_OR_RETURN(encoder_options.tenant_secret, TenantSecret(arguments, flags.store));
  KVLINK_ASSIGN_OR_RETURN(const auto encoder,
                          encode::Encoder::Create(opened.model.get(), opened.fingerprint, encoder_options));

  const ingest::IngestInput input{.source = source.get(),
                                  .tokenizer = opened.tokenizer.get(),
                                  .profile = &opened.profile,
                                  .context = opened.model->config().context,
                                  .fingerprint = opened.fingerprint,
                                  .encoder = encoder.get(),
                                  .store = store.get()};
  ingest::IngestOptions options;
  options.ns = flags.store.ns;
  options.generation = static_cast<uint64_t>(flags.generation);
  ProgressBar bar;
  ingest::IngestCallbacks callbacks;
  callbacks.failed = [&](absl::string_view where, absl::string_view id, const absl::Status& status) {
    bar.Clear();
    PrintFailure(where, id, status);
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
  const absl::Status status = ingest::Ingest(input, options, callbacks, &counts);
  bar.Clear();
  if (!flags.quiet) PrintSummary(counts, bar.elapsed());
  std::fflush(stdout);
  if (!status.ok()) {
    return Annotate(absl::Status(status.code(), absl::StrCat(status.message(), "; ", counts.added + counts.skipped,
                                                             " documents are complete, run it again to go on")),
                    flags.store.store);
  }
  if (counts.failed == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(counts.failed, " of ", counts.documents, " documents failed; correct them and run it again"));
}

}  // namespace kvlink::cli
